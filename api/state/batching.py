"""Batch forecasts: requests that arrive while a network is busy share its next run."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from api.errors.kinds import OverloadedError
from forecast.errors import ForecastError
from forecast.runtime.model import Prediction, ServedModel
from pipelines.forecasting.recursion import Round

LARGEST_RUN = 16
"""Windows in one run. More save no time per window; and with two batches, one half of the clients is computed while the
other half is parsed and answered."""
_GATHERING_SECONDS = 0.002
_QUICK_SECONDS = 0.001
"""A shorter run ends before a thread would have started it."""
_DEEPEST = 512
"""Limit of requests that wait for one model."""


@dataclass(slots=True)
class _Waiting:
    request: Round
    answer: asyncio.Future[Prediction]

    @property
    def windows(self) -> int:
        return len(self.request.series)


class Batcher:
    """Runs one model for the requests of one event loop.

    If the model is idle, a request runs at once: in the loop itself if the last run for one request took under 1 ms,
    otherwise in the executor. Requests that arrive meanwhile are batched. After a run that several requests shared, the
    next run waits up to 2 ms, because the same clients send their next requests together.
    """

    def __init__(self, model: ServedModel, executor: Executor, *, deepest: int | None = None) -> None:
        self.model = model
        self.runs = 0
        """Number of runs of the network."""
        self._executor = executor
        self._own_deepest = deepest
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._seconds_alone = math.inf
        """Duration of the last run for one request."""

    async def forecast(self, request: Round) -> Prediction:
        """Forecast the windows of a request, batched with others; raises what :meth:`ServedModel.predict` raises.

        Raises ``forecast.overloaded`` if too many requests wait.
        """
        deepest = _DEEPEST if self._own_deepest is None else self._own_deepest
        if len(self._queue) >= deepest:
            raise OverloadedError(
                "forecast.overloaded", f"{deepest} forecasts wait for this model already", "retry in a second"
            )
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        shared = 1
        try:
            while self._queue:
                if shared > 1:
                    await self._gather(shared)
                batch = self._next()
                if batch:
                    await self._run(batch)
                shared = len(batch)
        finally:
            self._worker = None

    async def _gather(self, expected: int) -> None:
        """Wait up to 2 ms until as many requests wait as were answered together."""
        deadline = asyncio.get_running_loop().time() + _GATHERING_SECONDS
        while len(self._queue) < expected:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _next(self) -> list[_Waiting]:
        """Take the requests that fit into one run, without cancelled ones; a larger request runs alone."""
        batch: list[_Waiting] = []
        windows = 0
        while self._queue and (not batch or windows + self._queue[0].windows <= LARGEST_RUN):
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
                windows += waiting.windows
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        try:
            if len(batch) == 1 and self._seconds_alone < _QUICK_SECONDS:
                made = self._together(requests)
            else:
                made = await asyncio.get_running_loop().run_in_executor(self._executor, self._together, requests)
        except Exception as error:  # noqa: BLE001 - the requests receive the error, and the next ones are served
            if len(batch) == 1 or not isinstance(error, ForecastError):
                for waiting in batch:
                    _fail(waiting, error)
                return
            for waiting in batch:  # one request may have unusable values: the others must not fail with it
                await self._run([waiting])
            return
        for waiting, prediction in zip(batch, made, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(prediction)

    def _together(self, batch: Sequence[Round]) -> list[Prediction]:
        self.runs += 1
        if len(batch) == 1:
            began = time.perf_counter()
            made = [batch[0].run(self.model)]
            self._seconds_alone = time.perf_counter() - began
            return made
        whole = Round(
            targets=np.concatenate([asked.targets for asked in batch]),
            past=np.concatenate([asked.past for asked in batch]),
            future=np.concatenate([asked.future for asked in batch]),
            series=tuple(name for asked in batch for name in asked.series),
            scale=np.concatenate([asked.scale for asked in batch]),
        ).run(self.model)
        ends = np.cumsum([len(asked.series) for asked in batch]).tolist()
        begins = [0, *ends[:-1]]
        return [
            Prediction(whole.mean[begin:end], whole.quantiles[begin:end])
            for begin, end in zip(begins, ends, strict=True)
        ]


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
