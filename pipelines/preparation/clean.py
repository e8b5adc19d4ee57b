"""Clean history: put rows on a regular grid, fill gaps up to a limit, and mark the observed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.panel import Array, Mask, Panel
from forecast.vocabulary import Resample
from pipelines.preparation.features import given_future, static_names
from pipelines.preparation.fill import filled

_MONDAY = datetime(2001, 1, 1)  # noqa: DTZ001 - a wall time of whatever zone: steps of a week begin on Mondays
_RECENT = 100
_STEP = " step"  # no channel's name has a space
_TIME = pl.col("time")
_MICROSECOND = timedelta(microseconds=1)
_REDUCED: Mapping[Resample, np.ufunc] = MappingProxyType(
    {Resample.MEAN: np.add, Resample.SUM: np.add, Resample.MAX: np.maximum, Resample.MIN: np.minimum}
)


def clean(rows: pl.DataFrame, config: DatasetConfig) -> Panel:
    """Put rows of the lake on one regular grid and fill the gaps; the lake itself does not change.

    The grid runs from the first to the newest step in which any series has a target or past covariate: a series whose
    newest rows are late ends in filled values. Future covariates are kept beyond the grid's end. If channels are
    resampled, all rows of a step become one; an unfinished step counts as missing for its series.

    Raises ``history.empty`` if there is no value, and ``history.off_grid`` if rows are off the grid although no channel
    is resampled.
    """
    seen, ahead = _spread(rows, config)
    columns, known_ahead = seen.columns, ahead.columns
    names = tuple(rows["series"].unique().sort())
    values, observed = _repaired(_on_grid(seen, columns, names), columns, config)
    future, future_observed = _repaired(_on_grid(ahead, known_ahead, names), known_ahead, config)
    count = len(config.targets)
    return Panel(
        series=names,
        start=seen.start,
        step=config.step,
        targets=values[..., :count],
        past=values[..., count:],
        observed=observed[..., :count],
        filled=_added(columns, values, observed) | _added(known_ahead, future, future_observed),
        past_observed=observed[..., count:],
        future=future,
        future_observed=future_observed,
        statics=statics_of(names, config),
    )


def missing_counts(rows: pl.DataFrame, config: DatasetConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Count the missing values by channel: those that are filled, and those that stay; raises as :func:`clean` does."""
    names = tuple(rows["series"].unique().sort())
    filled_in: dict[str, int] = {}
    left: dict[str, int] = {}
    for spread in _spread(rows, config):
        for name in spread.columns:  # one at a time: a panel of all channels would double the memory
            values, observed = _repaired(_on_grid(spread, [name], names), [name], config)
            filled_in |= _added([name], values, observed)
            left[name] = int(np.isnan(values).sum())
    return filled_in, left


def known_before(panel: Panel, config: DatasetConfig, row: int) -> Panel:
    """Return rows [0, row) of a panel, with gaps filled as before the later rows were known.

    Its future covariates end at ``row`` too.
    """

    def repaired(values: Array, observed: Mask, names: Sequence[str]) -> Array:
        values, observed = values[:, :row], observed[:, :row]
        if observed[:, -1:].all():  # no gap reaches the end
            return values
        return filled(values, observed, [config.channels[name] for name in names], config.season)

    return replace(
        panel,
        targets=repaired(panel.targets, panel.observed, config.targets),
        past=repaired(panel.past, panel.past_observed, config.past_covariates),
        observed=panel.observed[:, :row],
        past_observed=panel.past_observed[:, :row],
        future=given_future(panel, config, row),
        future_observed=panel.future_observed[:, :row],
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Step numbers of times on a data set's grid."""

    origin: datetime
    """Start of step 0."""
    step: int
    """Microseconds."""
    day_of: str
    """The zone whose days are the steps, stored as midnight UTC; empty if times are instants."""

    @classmethod
    def of(cls, rows: pl.DataFrame, config: DatasetConfig) -> _Grid:
        """Count from the first row, or from a fixed Monday if rows are resampled."""
        first = rows["time"].min()
        if not isinstance(first, datetime):
            raise DataError("history.empty", "the data set has no rows", 'run "forecast ingest" first')
        origin = _MONDAY.replace(tzinfo=config.tz).astimezone(UTC) if config.resamples else first
        return cls(origin, config.step // _MICROSECOND, config.zone if config.resamples and config.counts_days else "")

    def number(self, time: pl.Expr) -> pl.Expr:
        """Return the number of the step that contains a time."""
        return self._since(time) // self.step

    def is_begin(self, time: pl.Expr) -> pl.Expr:
        """Whether a time is the start of its step."""
        return self._since(time) % self.step == 0

    def _since(self, time: pl.Expr) -> pl.Expr:
        if self.day_of:
            time = time.dt.convert_time_zone(self.day_of).dt.replace_time_zone(None).dt.replace_time_zone("UTC")
        return (time - self.origin).dt.total_microseconds()


@dataclass(frozen=True, slots=True)
class _Spread:
    """Rows by step, and the range of steps that a panel covers."""

    steps: pl.DataFrame
    columns: tuple[str, ...]
    start: datetime
    """Start of step ``first``."""
    first: int
    last: int


def _spread(rows: pl.DataFrame, config: DatasetConfig) -> tuple[_Spread, _Spread]:
    """Return the channels known up to the origin, and the future covariates known beyond it."""
    columns, known_ahead = (*config.targets, *config.past_covariates), config.future_covariates
    grid = _Grid.of(rows, config)
    seen = _steps(rows, columns, grid, config)
    first, last = _extent(seen, columns)
    if first is None or last is None:
        raise DataError("history.empty", "the data set has no rows with values", 'run "forecast ingest" first')
    ahead = _steps(rows, known_ahead, grid, config)
    reach = max(last, _extent(ahead, known_ahead)[1] or last)
    start = grid.origin + first * config.step
    return _Spread(seen, columns, start, first, last), _Spread(ahead, known_ahead, start, first, reach)


def _steps(rows: pl.DataFrame, columns: Sequence[str], grid: _Grid, config: DatasetConfig) -> pl.DataFrame:
    """Return one row per series and step: the step's number and the values of ``columns``."""
    if not columns:
        return pl.DataFrame(schema={"series": pl.String, _STEP: pl.Int64})
    if config.resamples:
        return _resampled(rows, columns, grid, config)
    off = rows.filter(~grid.is_begin(_TIME))
    if len(off):
        raise DataError(
            "history.off_grid",
            f"{len(off)} rows are not a multiple of {config.frequency} after the first one, such as {off['time'][0]}",
            "set the frequency of the data in the config file, or a resample rule for its channels",
        )
    return rows.select("series", grid.number(_TIME).alias(_STEP), *columns)


def _resampled(rows: pl.DataFrame, columns: Sequence[str], grid: _Grid, config: DatasetConfig) -> pl.DataFrame:
    number, key = grid.number(_TIME).alias(_STEP), ["series", _STEP]
    # Rows sorted by series and time; cumsum(is_new) - 1 numbers the steps that have any rows:
    #
    #   time   step  is_new  step_of  load      one row per step
    #   00:00     0  true          0   4.0      mean 5.0
    #   00:30     0  false         0   6.0
    #   01:00     1  true          1   7.0      mean 7.0
    known = rows.lazy().filter(_has_value(columns)).sort("series", "time").with_columns(number).collect()
    is_new = known.select(~pl.struct(key).eq_missing(pl.struct(key).shift())).to_series().to_numpy()
    is_begin = known.select(grid.is_begin(_TIME)).to_series().to_numpy()
    step_of = np.cumsum(is_new) - 1
    made = {}
    for name in columns:
        values, rule = known[name].to_numpy(), config.channels[name].resample
        kept = np.flatnonzero(np.isfinite(values) & (is_begin | (rule is not Resample.NONE)))
        made[name] = _as_one(values[kept], step_of[kept], rule, int(is_new.sum()))
    # Only rows can show that a step is over: it is, if the next row at the usual distance falls into a later step.
    apart = _TIME.tail(_RECENT).diff().median().fill_null(timedelta(0))
    newest = known.lazy().group_by("series").agg(pl.col(_STEP).last(), next=_TIME.last() + apart)
    unfinished = newest.filter(grid.number(pl.col("next")) == pl.col(_STEP)).collect()
    steps = known.filter(is_new).select(key).with_columns(pl.DataFrame(made, nan_to_null=True))
    return steps.join(unfinished, on=key, how="anti")


def _as_one(values: Array, step: NDArray[np.intp], rule: Resample, count: int) -> Array:
    """Reduce the values of each step to one; ``step`` ascends. Steps without values become NaN.

    numpy adds equal rows to bitwise equal sums, whatever the other rows are.
    """
    one = np.full(count, np.nan)
    if len(values):
        begin = np.flatnonzero(np.diff(step, prepend=-1))
        lengths = np.diff(begin, append=len(values))
        made = _REDUCED[rule].reduceat(values, begin) if rule in _REDUCED else values[begin + lengths - 1]
        one[step[begin]] = made / lengths if rule is Resample.MEAN else made
    return one


def _has_value(columns: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(pl.col(columns).is_not_null())


def _extent(steps: pl.DataFrame, columns: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the first and the newest step with a value."""
    if not columns:
        return None, None
    extent = steps.lazy().filter(_has_value(columns)).select(first=pl.col(_STEP).min(), last=pl.col(_STEP).max())
    first, last = extent.collect().row(0)
    return first, last


def _on_grid(spread: _Spread, columns: Sequence[str], names: Sequence[str]) -> Array:
    """Return some channels as [series, steps, channels]; NaN where there is no value."""
    first, last = spread.first, spread.last
    count = last - first + 1
    values = np.full((len(names) * count, len(columns)), np.nan)
    if columns:
        chosen = spread.steps.lazy().select("series", _STEP, *columns)
        inside = chosen.filter(pl.col(_STEP).is_between(first, last)).collect()
        # Series and step give a row's index in the array, so no join is needed.
        row = pl.col("series").cast(pl.Enum(names)).to_physical().cast(pl.Int64) * count + pl.col(_STEP) - first
        values[inside.select(row).to_series().to_numpy()] = inside.select(columns).to_numpy()
    return values.reshape(len(names), count, len(columns))


def _repaired(values: Array, columns: Sequence[str], config: DatasetConfig) -> tuple[Array, Mask]:
    observed = np.isfinite(values)
    return filled(values, observed, [config.channels[name] for name in columns], config.season), observed


def _added(columns: Sequence[str], values: Array, observed: Mask) -> dict[str, int]:
    counts = np.isfinite(values).sum(axis=(0, 1)) - observed.sum(axis=(0, 1))
    return dict(zip(columns, counts.tolist(), strict=True))


def statics_of(names: Sequence[str], config: DatasetConfig) -> Array:
    """Return the static covariates of some series, [S, N]; NaN for a series without any in the config file."""
    wanted = static_names(config)
    values = [[config.statics.get(series, {}).get(name, np.nan) for name in wanted] for series in names]
    return np.asarray(values, dtype=float).reshape(len(names), len(wanted))
