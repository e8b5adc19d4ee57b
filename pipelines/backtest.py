"""Forecast held-out origins with the exported model, by the code that serves: what is scored is what is issued."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from forecast.evaluation import Backtest, Evidence, Yardstick, score
from forecast.jobs import DatasetJob
from forecast.rehearsal import Rehearsal
from forecast.runtime import ServedModel
from pipelines.windows import Windows

_BATCH = 256


def evidence_of(
    model: ServedModel, windows: Windows, yardstick: Yardstick, job: DatasetJob, rehearsal: Rehearsal
) -> Evidence:
    """Backtest a model and score it."""
    result = backtest(model, windows, yardstick)
    name, version = model.manifest.model_name, model.manifest.model_version
    return score(name, version, windows.digest, result, job.targets, job.horizons, rehearsal)


def backtest(model: ServedModel, windows: Windows, yardstick: Yardstick) -> Backtest:
    """Forecast every window in batches, in original units."""
    parts = [
        model.predict(windows.targets[part], windows.past[part], windows.future[part], windows.series[part])
        for part in _batches(len(windows.series))
    ]
    return Backtest(
        origins=windows.origins,
        series=windows.series,
        actual=windows.actual,
        mean=np.concatenate([part.mean for part in parts]),
        quantiles=np.concatenate([part.quantiles for part in parts]),
        levels=model.manifest.quantiles,
        deviations=np.asarray([yardstick.deviations[name] for name in windows.series]),
        naive_errors=np.asarray([yardstick.naive_errors[name] for name in windows.series]),
    )


def _batches(count: int) -> Iterator[slice]:
    return (slice(begin, begin + _BATCH) for begin in range(0, count, _BATCH))
