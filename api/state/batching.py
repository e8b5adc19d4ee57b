"""Many forecasts in one run of a network: those that are asked for while it is busy go into its next run together."""

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
from pipelines.forecasting.issue import Round

LARGEST_RUN = 16
"""Windows in one run. More gain nothing per window, and while one half of many clients is forecast, the other is read
and answered."""
_GATHERING_SECONDS = 0.002
_QUICK_SECONDS = 0.001
"""A run that takes less is over before a thread would have begun with it."""
_DEEPEST = 512
"""Requests that may wait for one model."""


@dataclass(slots=True)
class _Waiting:
    asked: Round
    answer: asyncio.Future[Prediction]

    @property
    def windows(self) -> int:
        return len(self.asked.series)


class Batcher:
    """Runs one model; to be used from one event loop.

    Who finds it idle is run at once: by the loop itself if the last run for one request was quick, else by the
    executor. While it runs others gather; after a run that several shared, the next one waits up to 2 ms from its first
    request on, for the others that were answered together to come back.
    """

    def __init__(self, model: ServedModel, executor: Executor, *, deepest: int | None = None) -> None:
        self.model = model
        self.runs = 0
        """Runs of the network so far."""
        self._executor = executor
        self._own_deepest = deepest
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._seconds_alone = math.inf
        """That the last run for one request took."""

    async def forecast(self, asked: Round) -> Prediction:
        """Run windows, together with those of others; raises what :meth:`ServedModel.predict` does for them.

        Raises ``forecast.overloaded`` if too many wait already.
        """
        deepest = _DEEPEST if self._own_deepest is None else self._own_deepest
        if len(self._queue) >= deepest:
            raise OverloadedError(
                "forecast.overloaded", f"{deepest} forecasts wait for this model already", "try again in a second"
            )
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
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
        """Wait until as many are there as were answered together, but not long."""
        deadline = asyncio.get_running_loop().time() + _GATHERING_SECONDS
        while len(self._queue) < expected:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _next(self) -> list[_Waiting]:
        """Take as many requests as fit into a run, but those that nobody waits for; a larger one is run alone."""
        batch: list[_Waiting] = []
        windows = 0
        while self._queue and (not batch or windows + self._queue[0].windows <= LARGEST_RUN):
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
                windows += waiting.windows
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        asked = [waiting.asked for waiting in batch]
        try:
            if len(batch) == 1 and self._seconds_alone < _QUICK_SECONDS:
                made = self._together(asked)
            else:
                made = await asyncio.get_running_loop().run_in_executor(self._executor, self._together, asked)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the next ones are served
            if len(batch) == 1 or not isinstance(error, ForecastError):
                for waiting in batch:
                    _tell(waiting, error)
                return
            for waiting in batch:  # one of them has values that no network takes: the others must not pay for it
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


def _tell(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
