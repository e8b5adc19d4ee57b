"""Issued forecasts and the observations of the same steps, as arrays for scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecast.installation import Dataset
from forecast.ledger.issuances import Issued
from forecast.panel import Array
from pipelines.preparation.clean import clean

_ROWS_AT_ONCE = 2_000_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Actuals:
    """Observed values of a data set's targets; filled values count as missing.

    >>> from datetime import UTC
    >>> midnight, hour = datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1)
    >>> Actuals(("east",), ("load",), midnight, hour, np.array([[[1.0]], [[2.0]]])).between(-1, 2).ravel()
    array([nan,  1.,  2.])
    """

    series: tuple[str, ...]
    channels: tuple[str, ...]
    start: datetime
    step: timedelta
    values: Array
    """[T, S, C], NaN where nothing was observed."""

    @classmethod
    def read(cls, dataset: Dataset, since: datetime) -> Actuals:
        """Read the present observations from ``since`` on; there may be none yet."""
        config = dataset.config
        rows = dataset.observations.read(since=since)
        is_observed = pl.any_horizontal(pl.col([*config.targets, *config.past_covariates]).is_not_null())
        if not rows.select(is_observed.any()).item():
            return cls((), config.targets, since, config.step, np.empty((0, 0, len(config.targets))))
        panel = clean(rows, config)
        values = np.where(panel.observed, panel.targets, np.nan).transpose(1, 0, 2)
        return cls(panel.series, config.targets, panel.start, panel.step, np.ascontiguousarray(values))

    @property
    def end(self) -> datetime:
        """The first time after the newest row."""
        return self.start + self.step * len(self.values)

    def row(self, time: datetime) -> int:
        """Return the row of a time; it may lie outside of ``values``."""
        return (time - self.start) // self.step

    def between(self, first: int, last: int) -> Array:
        """Return rows [first, last) as [last - first, S, C]; NaN outside of ``values``."""
        whole = np.full((last - first, *self.values.shape[1:]), np.nan)
        inside = self.values[max(first, 0) : max(last, 0)]
        whole[max(-first, 0) : max(-first, 0) + len(inside)] = inside
        return whole


@dataclass(frozen=True, slots=True)
class Served:
    """Issued forecasts of one model with the same quantile levels, and the actuals of their steps.

    F forecasts, S series and C channels of the actuals, H lead times, Q quantiles; NaN where nothing was forecast.
    """

    issued: tuple[Issued, ...]
    rows: NDArray[np.int64]
    """[F, H], the row of the actuals for each step."""
    actual: Array
    """[F, S, C, H]"""
    mean: Array
    naive: Array
    quantiles: Array
    """[F, S, C, H, Q]"""
    base: Array
    """[F, S, C, H, Q], before any correction."""


def read_served(
    dataset: Dataset, groups: Sequence[Sequence[Issued]], actuals: Actuals
) -> Iterator[tuple[Sequence[Issued], Served]]:
    """Read groups of forecasts, each of one model, a bounded number of rows at a time."""
    config = dataset.config
    each = max(len(actuals.series) * len(config.targets), 1)
    chunk: list[Sequence[Issued]] = []
    size = 0
    for group in groups:
        chunk.append(group)
        size += sum(one.horizon for one in group) * each
        if size >= _ROWS_AT_ONCE:
            yield from _read(dataset, chunk, actuals)
            chunk, size = [], 0
    if chunk:
        yield from _read(dataset, chunk, actuals)


def _read(
    dataset: Dataset, groups: Sequence[Sequence[Issued]], actuals: Actuals
) -> Iterator[tuple[Sequence[Issued], Served]]:
    wanted = {one.forecast_id: one.issued_at for group in groups for one in group}
    rows = dataset.forecasts.read_many(wanted)
    places = [(number, place) for number, group in enumerate(groups) for place in range(len(group))]
    of_group, of_place = (pl.Series(numbers, dtype=pl.Int64) for numbers in zip(*places, strict=True))
    since = (pl.col("time") - actuals.start).dt.total_microseconds()
    step = actuals.step // _MICROSECOND
    # Codes replace names: `forecast` is a position in `wanted`, `series` and `channel` are positions in the actuals
    # (null if unknown there), `row` is the step's row of the actuals, which may lie outside.
    known = rows.with_columns(
        pl.col("forecast_id").cast(pl.Enum(list(wanted))).to_physical().alias("forecast"),
        series=pl.col("series").cast(pl.Enum(actuals.series), strict=False).to_physical().cast(pl.Int64),
        channel=pl.col("channel").cast(pl.Enum(actuals.channels), strict=False).to_physical().cast(pl.Int64),
        row=since // step,
    )
    known = known.with_columns(group=of_group.gather(known["forecast"]), place=of_place.gather(known["forecast"]))
    # Rows of a channel, series or frequency that the config no longer has match no actuals.
    known = known.filter(pl.col("series").is_not_null(), pl.col("channel").is_not_null(), since % step == 0)
    parts = known.partition_by("group", as_dict=True)
    for number, group in enumerate(groups):
        part = parts.get((number,), known.clear())
        yield group, _to_arrays(tuple(group), part, actuals)


def _to_arrays(issued: tuple[Issued, ...], rows: pl.DataFrame, actuals: Actuals) -> Served:
    levels, horizon = len(issued[0].levels), max(one.horizon for one in issued)
    rows = rows.filter(pl.col("quantiles").list.len() == levels, pl.col("lead") <= horizon)
    shape = (len(issued), len(actuals.series), len(actuals.channels), horizon)
    place, series, channel, step = (rows[name].to_numpy() for name in ("place", "series", "channel", "row"))
    at = (place, series, channel, rows["lead"].to_numpy() - 1)

    # Places each row at [forecast, series, channel, lead - 1] in one assignment; cells without a row stay NaN.
    def scatter(values: Array) -> Array:
        dense = np.full((*shape, *values.shape[1:]), np.nan)
        dense[at] = values
        return dense

    inside = (step >= 0) & (step < len(actuals.values))
    observed = np.full(len(rows), np.nan)
    observed[inside] = actuals.values[step[inside], series[inside], channel[inside]]
    base = rows["base"].fill_null(rows["quantiles"])
    first = np.asarray([actuals.row(one.origin) for one in issued], dtype=np.int64)
    return Served(
        issued=issued,
        rows=first[:, None] + np.arange(horizon),
        actual=scatter(observed),
        mean=scatter(rows["mean"].to_numpy()),
        naive=scatter(rows["naive"].to_numpy()),
        quantiles=scatter(_numbers(rows["quantiles"], levels)),
        base=scatter(_numbers(base, levels)),
    )


def _numbers(lists: pl.Series, levels: int) -> Array:
    if not len(lists):
        return np.empty((0, levels))
    return np.asarray(lists.list.to_array(levels).to_numpy().reshape(len(lists), levels), dtype=float)
