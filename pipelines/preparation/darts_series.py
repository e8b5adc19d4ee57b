"""Convert panels to darts ``TimeSeries``; no other module makes any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from darts import TimeSeries
from numpy.typing import NDArray

from forecast.config.dataset import DatasetConfig
from forecast.panel import Panel
from forecast.runtime.scaler import Scaler
from pipelines.preparation.clean import known_before
from pipelines.preparation.features import future_covariates, future_names, static_names


@dataclass(frozen=True, slots=True)
class TrainingSeries:
    """Lists of equal length, as ``fit`` of a darts model takes them; scaled, float32."""

    targets: list[TimeSeries]
    """With the static covariates of their series, if there are any."""
    past: list[TimeSeries] | None
    future: list[TimeSeries]


def fit_scaler(panel: Panel, config: DatasetConfig, last: int) -> Scaler:
    """Fit the scaler on rows [0, last), as they were known before row ``last``: later rows have no influence."""
    return Scaler.fit(known_before(panel, config, last), last)


def to_darts(
    panel: Panel, scaler: Scaler, config: DatasetConfig, first: int, last: int, shortest: int
) -> TrainingSeries:
    """Cut rows [first, last) of a panel into darts series, as they were known before row ``last``.

    Each stretch without NaN becomes a series of its own, so that no window crosses a gap. Stretches of fewer than
    ``shortest`` rows hold no window and are left out. The series are views of one array per kind of channel.
    """
    known = known_before(panel, config, last)
    rows = slice(first, last)
    targets = scaler.scale_targets(known.targets[:, rows], panel.series).astype(np.float32)
    past = scaler.scale_past(known.past[:, rows], panel.series).astype(np.float32)
    future = scaler.scale_future(future_covariates(panel, config, first, last), panel.series).astype(np.float32)
    whole = np.logical_and.reduce([np.isfinite(values).all(axis=2) for values in (targets, past, future)])
    made = TrainingSeries([], [] if config.past_covariates else None, [])
    for number, name in enumerate(panel.series):
        statics = _statics(scaler, config, name)
        for begin, end in _stretches(whole[number]):
            if end - begin < shortest:
                continue
            start = panel.time(first + begin).replace(tzinfo=None)
            index = pd.date_range(start, periods=end - begin, freq=pd.Timedelta(panel.step))
            made.targets.append(_series(index, targets[number, begin:end], config.targets, statics))
            made.future.append(_series(index, future[number, begin:end], future_names(config)))
            if made.past is not None:
                made.past.append(_series(index, past[number, begin:end], config.past_covariates))
    return made


def _statics(scaler: Scaler, config: DatasetConfig, series: str) -> pd.DataFrame | None:
    names = static_names(config)
    return pd.DataFrame([scaler.statics[series]], columns=list(names), dtype=np.float32) if names else None


def _series(
    index: pd.DatetimeIndex, values: NDArray[np.float32], names: tuple[str, ...], statics: pd.DataFrame | None = None
) -> TimeSeries:
    return TimeSeries(index, values, components=list(names), static_covariates=statics, copy=False)


def _stretches(whole: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and end of each run of True."""
    edges = np.flatnonzero(np.diff(whole.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
