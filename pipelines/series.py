"""From panels to darts: the only place that makes darts ``TimeSeries``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from darts import TimeSeries

from forecast.jobs import DatasetJob
from forecast.panel import Array, Panel
from forecast.runtime import Scaler
from pipelines.features import FUTURE_FEATURES, known_future


@dataclass(frozen=True, slots=True)
class TrainingSeries:
    """Lists of equal length, as ``fit`` of a darts model takes them; scaled, float32."""

    targets: list[TimeSeries]
    past: list[TimeSeries] | None
    future: list[TimeSeries]


def to_darts(panel: Panel, scaler: Scaler, job: DatasetJob, first: int, last: int, shortest: int) -> TrainingSeries:
    """Cut rows [first, last) of a panel into darts series.

    A stretch without NaN becomes one series each, so that no window crosses a gap; stretches of fewer than ``shortest``
    rows hold no window and are left out.
    """
    targets, past, future = [], [], []
    calendar = known_future(panel.time(first), panel.step, last - first, job)
    for number, name in enumerate(panel.series):
        y = scaler.scale_targets(panel.targets[number, first:last], name)
        x = scaler.scale_past(panel.past[number, first:last], name)
        for begin, end in _whole_stretches(np.concatenate([y, x], axis=1)):
            if end - begin < shortest:
                continue
            index = pd.date_range(
                panel.time(first + begin).replace(tzinfo=None), periods=end - begin, freq=pd.Timedelta(panel.step)
            )
            targets.append(_series(index, y[begin:end], job.targets))
            past.append(_series(index, x[begin:end], job.past_covariates))
            future.append(_series(index, calendar[begin:end], FUTURE_FEATURES))
    return TrainingSeries(targets, past if job.past_covariates else None, future)


def _series(index: pd.DatetimeIndex, values: Array, names: tuple[str, ...]) -> TimeSeries:
    return TimeSeries.from_times_and_values(index, values.astype(np.float32), columns=list(names))


def _whole_stretches(values: Array) -> list[tuple[int, int]]:
    whole = np.isfinite(values).all(axis=1).astype(np.int8)
    edges = np.flatnonzero(np.diff(whole, prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
