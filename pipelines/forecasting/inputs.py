"""Inputs of a model, taken from a panel: the look-back, the series whose inputs are complete, and errors for gaps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.panel import Array, Panel
from forecast.runtime.manifest import Manifest
from forecast.vocabulary import Fill
from pipelines.preparation.features import future_covariates, future_names
from pipelines.preparation.freshness import newest_rows

_LOG = logging.getLogger(__name__)


def forecastable(panel: Panel, manifest: Manifest, config: DatasetConfig) -> Panel:
    """Drop series that the model was not trained on or whose inputs have a gap, so that the others get a forecast.

    If no series is left, the panel is returned unchanged: :func:`require_complete` and :func:`require_known` then
    raise an error that names the gap.
    """
    first, last = max(panel.steps - manifest.lookback, 0), panel.steps + manifest.horizon
    inputs = (*look_back(panel, manifest.lookback), future_covariates(panel, config, first, last))
    complete = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in inputs])
    ready = [
        name
        for name, is_complete in zip(panel.series, complete, strict=True)
        if is_complete and name in manifest.scaler.targets
    ]
    for name in set(panel.series) - set(ready):
        _LOG.warning(
            "%s has no forecast: the model was not trained on it, or its newest or future rows have a gap", name
        )
    return panel.only(ready) if ready else panel


def fits(manifest: Manifest, config: DatasetConfig) -> bool:
    """Whether a model has the targets, covariates (in this order) and step of the config."""
    trained = (manifest.targets, manifest.past, manifest.future, manifest.step_seconds)
    return trained == (config.targets, config.past_covariates, future_names(config), config.step.total_seconds())


def look_back(panel: Panel, lookback: int) -> tuple[Array, Array]:
    """Return the look-back's targets [S, L, C] and past covariates [S, L, P], the latter carried forward."""
    first = max(panel.steps - lookback, 0)
    return panel.targets[:, first:], _carried_forward(panel.past[:, first:])


def _carried_forward(values: Array) -> Array:
    if not np.isnan(values).any():
        return values
    # The newest covariates often arrive after the newest targets; until then the last known value is used.
    rows = np.where(np.isnan(values), 0, np.arange(values.shape[1])[:, None])
    return np.asarray(np.take_along_axis(values, np.maximum.accumulate(rows, axis=1), axis=1))


def require_complete(values: Array, panel: Panel, names: Sequence[str]) -> None:
    """Raise ``forecast.history_gap`` if a look-back [S, L, K] has missing values."""
    for series, channel, count, first in _gaps(values, panel.series, names):
        at = panel.time(panel.steps - values.shape[1] + first)
        raise DataError(
            "forecast.history_gap",
            f"{series} has {count} missing values of {channel} in its look-back, the first at {at}",
            "ingest or send the missing rows, or raise fill_limit of the channel in the config file",
        )


def require_known(future: Array, panel: Panel, config: DatasetConfig, first: int) -> None:
    """Raise ``forecast.future_missing`` if future covariates [S, T, F], from row ``first`` on, have missing values."""
    known, newest = future.copy(), newest_rows(panel.future_observed)
    for place, name in enumerate(config.future_covariates, start=-len(config.future_covariates)):
        if config.channels[name].fill is Fill.LINEAR:
            # Linear interpolation needs a later value. Beyond the newest one the config must name another fill.
            known[..., place][first + np.arange(known.shape[1]) > newest[:, place, None]] = np.nan
    for series, channel, count, row in _gaps(known, panel.series, future_names(config)):
        raise DataError(
            "forecast.future_missing",
            f"{series} has no {channel} from {panel.time(first + row)}: {count} of the values that a forecast of "
            f"{panel.time(first + future.shape[1] - 1)} needs are missing",
            "ingest the covariate up to the horizon, or set its fill (forward, seasonal or zero) and fill_limit in the "
            "config file",
        )


def _gaps(values: Array, series: Sequence[str], channels: Sequence[str]) -> Iterator[tuple[str, str, int, int]]:
    """Yield series, channel, number of missing values and row of the first, for [S, T, K] values with any missing."""
    missing = np.isnan(values)
    if not missing.any():
        return
    for number, place in np.argwhere(missing.any(axis=1)).tolist():
        rows = np.flatnonzero(missing[number, :, place])
        yield series[number], channels[place], len(rows), int(rows[0])
