from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from api.errors.kinds import OverloadedError
from api.state.batching import LARGEST_RUN, Batcher
from forecast.errors import DataError
from forecast.runtime.model import load
from pipelines.forecasting.recursion import Round
from pipelines.preparation.features import FUTURE_FEATURES

if TYPE_CHECKING:
    from forecast.config.dataset import DatasetConfig
    from forecast.runtime.manifest import Manifest
    from forecast.runtime.model import ServedModel


@pytest.fixture
def model(tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., Manifest]) -> ServedModel:
    store_model(tmp_path / "models" / "m", tiny_config, weight=0.7)
    return load(tmp_path / "models" / "m")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def ask(model: ServedModel, seed: int, windows: int = 1) -> Round:
    random, about = np.random.default_rng(seed), model.manifest
    targets = random.normal(40, 10, (windows, about.lookback, len(about.targets)))
    names = ("east", "west")[:windows] if windows <= 2 else ("east",) * windows
    return Round(
        targets=targets,
        past=random.normal(5, 2, (windows, about.lookback, 1)),
        future=random.uniform(-1, 1, (windows, about.lookback + about.horizon, len(FUTURE_FEATURES))),
        series=names,
        scale=model.scales(targets, names, about.horizon),
    )


def test_what_is_asked_together_is_run_together_and_everybody_gets_their_own(
    model: ServedModel, executor: ThreadPoolExecutor
) -> None:
    asked = [ask(model, seed, windows=1 + seed % 2) for seed in range(40)]

    async def all_at_once() -> tuple[Batcher, list[np.ndarray]]:
        batcher = Batcher(model, executor)
        made = await asyncio.gather(*[batcher.forecast(one) for one in asked])
        return batcher, [one.quantiles for one in made]

    batcher, made = asyncio.run(all_at_once())
    assert batcher.runs == math.ceil(60 / LARGEST_RUN)
    for one, quantiles in zip(asked, made, strict=True):
        np.testing.assert_allclose(quantiles, one.run(model).quantiles, rtol=1e-6)


def test_no_run_has_more_windows_than_the_largest_unless_one_request_has(
    model: ServedModel, executor: ThreadPoolExecutor
) -> None:
    async def all_at_once() -> int:
        batcher = Batcher(model, executor)
        await asyncio.gather(*[batcher.forecast(ask(model, seed, 40)) for seed in range(4)])
        await batcher.forecast(ask(model, 9, 100))
        return batcher.runs

    assert asyncio.run(all_at_once()) == 5


def test_one_request_that_no_network_takes_does_not_spoil_the_others(
    model: ServedModel, executor: ThreadPoolExecutor
) -> None:
    asked = [ask(model, seed) for seed in range(6)]
    asked[3] = replace(asked[3], targets=np.full_like(asked[3].targets, np.nan))

    async def all_at_once() -> list[object]:
        batcher = Batcher(model, executor)
        return list(await asyncio.gather(*[batcher.forecast(one) for one in asked], return_exceptions=True))

    made = asyncio.run(all_at_once())
    assert [isinstance(one, DataError) for one in made] == [place == 3 for place in range(6)]
    assert getattr(made[3], "code", "") == "forecast.not_finite"


def test_more_than_can_wait_is_refused_and_the_rest_is_answered(
    model: ServedModel, executor: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    executor.submit(gate.wait)  # the only thread is busy

    async def too_many() -> list[object]:
        batcher = Batcher(model, executor, deepest=5)
        tasks = [asyncio.create_task(batcher.forecast(ask(model, seed))) for seed in range(20)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        gate.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    made = asyncio.run(too_many())
    refused = [one for one in made if isinstance(one, OverloadedError)]
    assert len(refused) >= 10
    assert not [one for one in made if isinstance(one, Exception) and not isinstance(one, OverloadedError)]


def test_who_went_away_is_not_waited_for(model: ServedModel, executor: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    executor.submit(gate.wait)

    async def leave() -> int:
        batcher = Batcher(model, executor)
        first = asyncio.create_task(batcher.forecast(ask(model, 0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone = [asyncio.create_task(batcher.forecast(ask(model, seed))) for seed in range(1, 9)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        gate.set()
        await first
        await batcher.forecast(ask(model, 10))
        return batcher.runs

    assert asyncio.run(leave()) == 2
