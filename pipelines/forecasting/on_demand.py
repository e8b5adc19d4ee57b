"""Build a panel from history that a client sends with a request, directly from arrays (no data frame in between)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

import numpy as np

from forecast.config.checks import CHECKS
from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, nearest
from forecast.panel import Array, Mask, Panel
from forecast.runtime.manifest import Manifest
from forecast.vocabulary import PLAUSIBLE, Action
from pipelines.ingestion.duplicates import resolve_duplicates
from pipelines.ingestion.row_checks import check_rows
from pipelines.preparation.clean import clean, statics_of
from pipelines.preparation.fill import filled
from pipelines.sources import Batch

Values = Sequence[float | None]
Columns = Mapping[str, Values]

_MOST_NAMES = 20
_REFUSED = ("null_key", "malformed_series", "unknown_series", "malformed_time", "implausible_time", "off_grid",
            "missing_hour", "not_a_number", "not_finite", "out_of_range", "conflicting")  # fmt: skip
_CHECKS: Mapping[str, Action] = MappingProxyType({name: Action.REJECT for name in CHECKS if name in _REFUSED})
"""Checks that would quarantine or repair a row during ingestion. In a request they are errors instead:
a silently dropped row would go unnoticed."""


def from_columns(
    start: datetime,
    series: Mapping[str, Columns],
    future: Mapping[str, Columns],
    config: DatasetConfig,
    trained: Collection[str],
) -> Panel:
    """Build a panel from values on the grid, by series and channel in their units; ``None`` is a missing value.

    ``start`` is the time of the first value. ``future`` has known-future covariates from the end of the history on;
    those of the history's own times are in ``series``. Gaps are filled by the config's policy, like gaps of stored
    rows. ``trained`` are the series that the model knows. Messages name places, such as
    ``history.series.east.load[17]``, never the value that was sent there.

    Raises ``history.unknown_series``, ``history.empty``, ``history.uneven``, ``history.missing_channel``,
    ``history.unknown_channel``, ``history.out_of_range``, ``history.implausible_time``, ``future.unknown_channel`` and
    ``future.unknown_series``.
    """
    names = tuple(sorted(series))
    _require_trained(names, trained)
    known = (*config.targets, *config.past_covariates, *config.future_covariates)
    steps = _common_length(names, series, config, known)
    _require_plausible(start, config.step * steps)
    seen = (*config.targets, *config.past_covariates)
    values = _to_array(names, series, seen, config, "history.series")
    observed = np.isfinite(values)
    if not observed.any():
        raise DataError("history.empty", "all values of the history are missing", "send observed values")
    ahead, ahead_observed = _known_ahead(names, series, future, config, steps)
    # As for stored rows, the grid spans the first to the newest row with an observation.
    rows = np.flatnonzero(observed.any(axis=(0, 2)))
    first, last = int(rows[0]), int(rows[-1]) + 1
    values, observed = values[:, first:last], observed[:, first:last]
    repaired = filled(values, observed, [config.channels[name] for name in seen], config.season)
    ahead, ahead_observed = ahead[:, first:], ahead_observed[:, first:]
    count = len(config.targets)
    channels = [config.channels[name] for name in config.future_covariates]
    return Panel(
        series=names,
        start=start + config.step * first,
        step=config.step,
        targets=repaired[..., :count],
        past=repaired[..., count:],
        observed=observed[..., :count],
        filled={},
        past_observed=observed[..., count:],
        future=filled(ahead, ahead_observed, channels, config.season),
        future_observed=ahead_observed,
        statics=statics_of(names, config),
    )


def from_rows(batch: Batch, config: DatasetConfig) -> Panel:
    """Build a panel from rows in the format of a push. Rows that ingestion would quarantine or repair are errors.

    Known-future covariates have rows up to the horizon, whose other channels are empty. Raises ``ingest.*`` with the
    first places, ``history.empty`` and ``history.off_grid``.
    """
    strict = config.model_copy(update={"checks": {**config.checks, **_CHECKS}})
    checked = check_rows(batch, strict, PLAUSIBLE[1], echo=False)  # no row is too new: the client knows its clock
    resolve_duplicates(checked, config.source)
    if checked.rows.is_empty():
        raise DataError("history.empty", "the body has no rows", "send observed rows")
    try:
        return clean(checked.rows.select("series", "time", *config.channels), config)
    except DataError as error:
        if error.code != "history.off_grid":
            raise DataError(error.code, error.fact, "send observed rows") from None
        raise off_grid(config) from None  # the message of clean() would quote a time that the client sent


def from_arrays(
    start: datetime, name: str, targets: Array, past: Array, future: Array, config: DatasetConfig, place: str
) -> Panel:
    """Build a panel of one series without missing values: ``targets`` [T, C], ``past`` [T, P], ``future`` [T + A, K].

    Raises ``history.not_finite``, ``history.out_of_range`` and ``history.implausible_time``; ``place`` is
    the window's name in messages.
    """
    _require_plausible(start, config.step * len(targets))
    parts = ((targets, config.targets), (past, config.past_covariates), (future, config.future_covariates))
    for values, channels in parts:
        for number, channel in enumerate(channels):
            wrong = np.flatnonzero(~np.isfinite(values[:, number]))
            if len(wrong):
                raise DataError(
                    "history.not_finite", f"{place}.{channel}[{wrong[0]}] is not a finite number", "send every value"
                )
            _require_bounds(values[None, :, number], channel, (place,), config)
    return Panel(
        series=(name,),
        start=start,
        step=config.step,
        targets=targets[None],
        past=past[None],
        observed=np.ones((1, *targets.shape), bool),
        filled={},
        future=future[None],
        statics=statics_of((name,), config),
    )


def check(
    panel: Panel, manifest: Manifest, config: DatasetConfig, on: datetime | None, *, only_trained: bool = True
) -> None:
    """Check that a model can forecast a panel; ``on`` is any time of the data set's grid, if one is known.

    Unless ``only_trained``, series may be unknown to the model: see :meth:`ServedModel.knowing`.

    Raises ``history.unknown_series``, ``history.off_grid`` and ``forecast.short_history``.
    """
    if only_trained or manifest.statics:
        _require_trained(panel.series, manifest.scaler.targets)
    if on is not None and not config.resamples and (panel.start - on) % config.step != timedelta(0):
        raise off_grid(config)
    if panel.steps < manifest.lookback:
        raise DataError(
            "forecast.short_history",
            f"{panel.steps} rows of history are fewer than the look-back of {manifest.lookback}",
            f"send at least the last {manifest.lookback} rows; /v1/datasets/.../requirements lists them",
        )


def off_grid(config: DatasetConfig) -> DataError:
    """Return the error for times that lie between the data set's steps."""
    return DataError(
        "history.off_grid",
        f"times of the history do not lie on the data set's grid of {config.frequency}",
        "send the times that /v1/datasets/.../requirements lists",
    )


def _require_trained(names: Sequence[str], trained: Collection[str]) -> None:
    for name in names:
        if name not in trained:
            raise DataError(
                "history.unknown_series", "the history has a series that the model was not trained on",
                _nearest(name, trained),
            )  # fmt: skip


def _common_length(
    names: Sequence[str], series: Mapping[str, Columns], config: DatasetConfig, known: Sequence[str]
) -> int:
    lengths: set[int] = set()
    for name in names:
        for channel in (*config.targets, *config.past_covariates, *config.future_covariates):
            if channel not in series[name]:
                raise DataError(
                    "history.missing_channel", f"history.series.{name} has no {channel}",
                    "send every channel; null for a missing value",
                )  # fmt: skip
        for channel, values in series[name].items():
            if channel not in known:
                raise DataError(
                    "history.unknown_channel", f"history.series.{name} has a channel that the data set does not have",
                    _nearest(channel, known),
                )  # fmt: skip
            lengths.add(len(values))
    if len(lengths) > 1:
        raise DataError(
            "history.uneven", f"channels of the history have {min(lengths)} to {max(lengths)} values",
            "send the same number of values of each channel; null for a missing value",
        )  # fmt: skip
    if not lengths or lengths == {0}:
        raise DataError("history.empty", "the history has no values", "send observed values")
    return lengths.pop()


def _known_ahead(
    names: Sequence[str],
    series: Mapping[str, Columns],
    future: Mapping[str, Columns],
    config: DatasetConfig,
    steps: int,
) -> tuple[Array, Mask]:
    """Return known-future covariates from the start of the history on, [S, T + A, K], and the mask of those sent."""
    for name, columns in future.items():
        if name not in series:
            raise DataError(
                "future.unknown_series", "future has a series that the history does not have", _nearest(name, series)
            )
        for channel in columns:
            if channel not in config.future_covariates:
                raise DataError(
                    "future.unknown_channel", "future has a channel that is not a known-future covariate",
                    _nearest(channel, config.future_covariates),
                )  # fmt: skip
    if not config.future_covariates:
        none = np.empty((len(names), steps, 0))
        return none, none.astype(bool)
    before = _to_array(names, series, config.future_covariates, config, "history.series")
    reach = max((len(values) for columns in future.values() for values in columns.values()), default=0)
    padded = {
        name: {
            channel: (*future.get(name, {}).get(channel, ()), *([None] * reach))[:reach]
            for channel in config.future_covariates
        }
        for name in names
    }
    whole = np.concatenate([before, _to_array(names, padded, config.future_covariates, config, "future")], axis=1)
    return whole, np.isfinite(whole)


def _to_array(
    names: Sequence[str], series: Mapping[str, Columns], channels: Sequence[str], config: DatasetConfig, place: str
) -> Array:
    """Return values as [S, T, K]; NaN for a missing value."""
    columns = [[series[name][channel] for channel in channels] for name in names]
    # None becomes NaN. The memory layout is that of stored rows: in another one, sums would be rounded differently.
    values = np.ascontiguousarray(np.asarray(columns, dtype=np.float64).transpose(0, 2, 1))
    for number, channel in enumerate(channels):
        _require_bounds(values[..., number], channel, [f"{place}.{name}" for name in names], config)
    return values


def _require_bounds(values: Array, channel: str, places: Sequence[str], config: DatasetConfig) -> None:
    """Raise ``history.out_of_range`` if one of the [S, T] values is outside the channel's bounds."""
    one = config.channels[channel]
    if one.lower is None and one.upper is None:
        return
    low, high = (-np.inf if one.lower is None else one.lower), (np.inf if one.upper is None else one.upper)
    outside = (values < low) | (values > high)  # false for NaN
    if outside.any():
        at, row = np.argwhere(outside)[0].tolist()
        raise DataError(
            "history.out_of_range",
            f"{places[at]}.{channel}[{row}] lies outside the channel's bounds",
            f"send values from {low:g} to {high:g}",
        )


def _require_plausible(start: datetime, length: timedelta) -> None:
    if not PLAUSIBLE[0] <= start <= PLAUSIBLE[1] - length:  # start + length could overflow a datetime
        raise DataError(
            "history.implausible_time",
            "the history begins before 1900 or ends after 2200",
            "send the time of its first value as start",
        )


def _nearest(name: str, known: Collection[str]) -> str:
    hint = nearest(name[:80], known)
    return hint if hint.startswith("did you mean") or len(known) <= _MOST_NAMES else "see /v1/datasets"
