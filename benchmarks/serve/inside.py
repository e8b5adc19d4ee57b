"""Times of the parts of one forecast on demand inside the service, without HTTP, and of the bare network."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.serve.home import DATASETS, START, STEPS, bodies, network


def inside(home: Path, turns: int = 200) -> dict[str, float]:
    """Return medians in milliseconds; ``whole`` is the sum of the sequential parts of one request."""
    from api.answers.on_demand import OnDemandRequest
    from api.forecasts.encoding import json_rest
    from api.forecasts.selection import select
    from api.requests.json_body import parse
    from api.schemas.forecasts import ForecastQuery
    from api.state.champions import LoadedChampions
    from api.state.issued import read_issued
    from forecast.installation import Installation
    from forecast.runtime.model import session
    from pipelines.forecasting.on_demand import from_columns
    from pipelines.forecasting.recursion import rounds

    installation = Installation.open(home)
    champions, config = LoadedChampions(installation), installation.config.datasets[DATASETS[0]]
    champions.look()
    loaded = asyncio.run(champions.of(DATASETS[0]))
    body = bodies(1)[0]
    sent = parse(body, OnDemandRequest)
    series, trained = sent.history.series if sent.history else {}, loaded.model.manifest.scaler.targets
    panel = from_columns(START, series, {}, config, trained)
    first = next(rounds(loaded.model, panel, config, STEPS, loaded.calendar))
    issued = read_issued(installation.ledger.issuances.newest(DATASETS[0], 1)[0], installation)
    part = select(ForecastQuery(), issued)
    feeds = loaded.model.feeds(first.targets, first.past, first.future, first.series)
    steps: dict[str, Callable[[], object]] = {
        "parse": lambda: parse(body, OnDemandRequest),
        "panel": lambda: from_columns(START, series, {}, config, trained),
        "window": lambda: next(rounds(loaded.model, panel, config, STEPS, loaded.calendar)),
        "network and bands": lambda: first.run(loaded.model),
        "encode": lambda: json_rest(issued, part, config),
    }
    medians = {name: _timed(call, turns) for name, call in steps.items()}
    medians["whole"] = sum(medians.values())
    for threads in (1, 2):
        bare = session(network(home), threads)
        for windows in (1, 16, 64):
            many = {name: np.repeat(values, windows, axis=0) for name, values in feeds.items()}
            named = f"network alone, {windows} windows, {threads} threads"
            medians[named] = _timed(lambda bare=bare, many=many: bare.run(None, many), max(turns // 8, 1))  # type: ignore[misc]
    champions.close()
    return medians


def _timed(call: Callable[[], object], turns: int) -> float:
    seen = []
    for _ in range(turns):
        begin = time.perf_counter()
        call()
        seen.append(1000 * (time.perf_counter() - begin))
    return statistics.median(seen)
