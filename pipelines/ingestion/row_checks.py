"""Checks of single rows: read keys, times, versions and values of a batch, and convert them to the lake's types."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.lake.schemas import KEY, TIME
from forecast.units import conversion
from forecast.vocabulary import PLAUSIBLE, Doubled
from pipelines.ingestion.checked_batch import ROW, CheckedBatch
from pipelines.sources import Batch

_LONGEST_NAME = 200
_CONTROL = r"[\x00-\x1f\x7f]"
_NO_TEXT = (pl.Binary, pl.Object)
_ENOUGH_WRONG = 20
"""Fewest wrong rows for which ``quarantine_limit`` can reject a batch."""


def check_rows(batch: Batch, config: DatasetConfig, now: datetime, *, echo: bool = True) -> CheckedBatch:
    """Check key, time and values of every row of a batch.

    The remaining rows have ``row``, ``series``, ``time`` (UTC), ``version`` (Int64) if the source has one, and one
    ``Float64`` column per channel. They are in the order of the batch, and keys may repeat; see
    :func:`~pipelines.ingestion.duplicates.resolve_duplicates`.

    Raises ``ingest.*`` if a check rejects the batch, or if too many rows are wrong.
    """
    checked = CheckedBatch(batch, config.checks, echo=echo)
    if batch.unknown_channels:
        checked.report("unknown_channel", len(batch.unknown_channels), batch.unknown_channels[:3] if echo else ())
    _name_series(checked, config)
    _read_times(checked, config)
    _read_versions(checked)
    checked.flag_rows("null_key", pl.any_horizontal(pl.col(KEY).is_null()))
    _to_utc(checked, config)
    _check_future(checked, config, now)
    _read_values(checked, config)
    if not checked.rows["time"].is_sorted():  # sorted over all series, as in most feeds, implies sorted within each
        checked.flag_rows("unordered", pl.col("time") < pl.col("time").shift(1).over("series"))
    wrong = len(checked.quarantined.unique(ROW))
    if wrong >= _ENOUGH_WRONG and wrong > config.quarantine_limit * len(batch.rows):
        worst = max(checked.findings, key=lambda finding: finding.count)
        raise DataError(
            worst.code,
            f'"{batch.name}": {worst.message}: {worst.count}, such as {worst.first[0]}; {wrong} of {len(batch.rows)} '
            "rows cannot be used",
            f"correct the source or the config file ({_REMEDIES.get(worst.code, 'time, zone, frequency, channels')}), "
            "or raise quarantine_limit",
        )
    checked.finish()
    return checked


_REMEDIES: Mapping[str, str] = {
    "ingest.off_grid": "frequency, or a resample rule for its channels",
    "ingest.malformed_time": "time and time_format",
    "ingest.not_a_number": "channels and their columns",
    "ingest.unknown_series": "known_series",
    "ingest.in_the_future": "zone and time_format",
}


def coarse_instants(batch: Batch, config: DatasetConfig) -> pl.Series:
    """Return UTC times; both instants of an hour repeated by the clock change become the earlier one."""
    times = _parsed(batch.rows["time"], config)
    if times.dtype.time_zone is None:  # type: ignore[attr-defined]  # _parsed returns datetimes
        times = times.dt.replace_time_zone(config.tz.key, ambiguous="earliest", non_existent="null")
    return times.dt.convert_time_zone("UTC")


def _name_series(batch: CheckedBatch, config: DatasetConfig) -> None:
    names = batch.rows["series"]
    if names.dtype.is_nested() or names.dtype in _NO_TEXT:
        raise DataError(
            "ingest.malformed_series",
            f'"{batch.name}": the column of series holds {names.dtype}',
            "write the names as text",
        )
    names = names.cast(pl.String).str.strip_chars()
    batch.rows = batch.rows.with_columns(names.set(names == "", None).alias("series"))
    distinct = names.unique().drop_nulls().to_frame()
    name = pl.col("series")
    if distinct.select((name.str.contains(_CONTROL) | (name.str.len_chars() > _LONGEST_NAME)).any()).item():
        batch.flag_rows("malformed_series", name.str.contains(_CONTROL) | (name.str.len_chars() > _LONGEST_NAME))
    if config.known_series:
        batch.flag_rows("unknown_series", name.is_not_null() & ~name.is_in(config.known_series))


def _read_times(batch: CheckedBatch, config: DatasetConfig) -> None:
    given = batch.rows["time"]
    if not (given.dtype in (pl.String, pl.Date, pl.Null) or isinstance(given.dtype, pl.Datetime)):
        raise DataError(
            "ingest.malformed_time",
            f'"{batch.name}": column "{config.time}" holds {given.dtype}, not times',
            'write times as "2013-01-31 17:00:00"',
        )
    parsed = _parsed(given, config)
    is_blank = given.str.strip_chars() == "" if given.dtype == pl.String else given.is_null()
    wrong = parsed.is_null() & given.is_not_null() & ~is_blank.fill_null(value=True)
    if wrong.any():
        batch.flag_rows("malformed_time", pl.lit(wrong))
        parsed = parsed.filter(~wrong)
    batch.rows = batch.rows.with_columns(parsed.alias("time"))


def _parsed(times: pl.Series, config: DatasetConfig) -> pl.Series:
    if isinstance(times.dtype, pl.Datetime):
        return times.dt.cast_time_unit("us")
    if times.dtype != pl.String:  # dates, or a column of nulls
        return times.cast(pl.Datetime("us"))
    with contextlib.suppress(pl.exceptions.PolarsError):  # raised if no row has a time
        return times.str.strip_chars().str.to_datetime(config.time_format or None, time_unit="us", strict=False)
    return pl.Series(times.name, [None] * len(times), dtype=pl.Datetime("us"))


def _read_versions(batch: CheckedBatch) -> None:
    if "version" not in batch.rows.columns:
        return
    given = batch.rows["version"]
    version = pl.Series("version", [None] * len(given), dtype=pl.Int64)
    if given.dtype.is_integer() or given.dtype == pl.Null:
        version = given.cast(pl.Int64)
    elif given.dtype.is_temporal():
        version = _instants(given.cast(pl.Datetime("us")) if given.dtype == pl.Date else given)
    elif given.dtype == pl.String:
        version = given.str.strip_chars().cast(pl.Int64, strict=False)
        if version.null_count() > given.null_count():
            with contextlib.suppress(pl.exceptions.PolarsError):
                version = _instants(given.str.strip_chars().str.to_datetime(time_unit="us", strict=False))
    wrong = version.is_null() & given.is_not_null()
    batch.rows = batch.rows.with_columns(version.alias("version"))
    if wrong.any():
        batch.flag_rows("malformed_version", pl.lit(wrong))


def _instants(times: pl.Series) -> pl.Series:
    return times.dt.epoch("us").cast(pl.Int64)


def _to_utc(batch: CheckedBatch, config: DatasetConfig) -> None:
    is_aware = batch.rows.schema["time"].time_zone is not None  # type: ignore[attr-defined]  # datetimes since _read_times
    if config.counts_days and not config.resamples:
        # A day is a date: its local midnight is stored as midnight UTC, whatever the offset of the zone.
        wall = (
            pl.col("time").dt.convert_time_zone(config.zone).dt.replace_time_zone(None) if is_aware else pl.col("time")
        )
        batch.rows = batch.rows.with_columns(time=wall)
        _onto_grid(batch, config)
        batch.rows = batch.rows.with_columns(pl.col("time").dt.replace_time_zone("UTC").cast(TIME))
    else:
        if not config.resamples:
            _onto_grid(batch, config)
        if not is_aware:
            _localise(batch, config)
        batch.rows = batch.rows.with_columns(pl.col("time").dt.convert_time_zone("UTC").cast(TIME))
    first, last = PLAUSIBLE
    batch.flag_rows("implausible_time", (pl.col("time") < first) | (pl.col("time") >= last))


def _onto_grid(batch: CheckedBatch, config: DatasetConfig) -> None:
    # Naive times are checked as wall times: full hours of a zone half an hour off UTC are full hours.
    step = int(min(config.step, timedelta(days=1)).total_seconds() * 1e6)
    is_off = pl.col("time").dt.epoch("us") % step != 0

    def nearest(rows: pl.DataFrame, _mask: pl.Series) -> pl.DataFrame:
        return rows.with_columns(pl.col("time").dt.round(f"{step}us"))

    batch.flag_rows("off_grid", is_off, nearest)


def _localise(batch: CheckedBatch, config: DatasetConfig) -> None:
    """Convert naive times, which are wall times of the data set's zone, to aware ones."""
    if config.zone == "UTC":
        batch.rows = batch.rows.with_columns(pl.col("time").dt.replace_time_zone("UTC"))
        return
    wall = pl.col("time")
    early = wall.dt.replace_time_zone(config.zone, ambiguous="earliest", non_existent="null")
    late = wall.dt.replace_time_zone(config.zone, ambiguous="latest", non_existent="null")
    day = timedelta(days=1)

    def with_offset_of_the_day_before(rows: pl.DataFrame, mask: pl.Series) -> pl.DataFrame:
        instant = (wall - day).dt.replace_time_zone(config.zone, ambiguous="latest").dt.convert_time_zone("UTC") + day
        moved = instant.dt.convert_time_zone(config.zone).dt.replace_time_zone(None)
        return rows.with_columns(pl.when(pl.lit(mask)).then(moved).otherwise(wall).alias("time"))

    batch.flag_rows("missing_hour", wall.is_not_null() & early.is_null(), with_offset_of_the_day_before)
    batch.flag_rows("doubled_hour", early != late, lambda rows, _mask: rows)
    is_late = pl.lit(value=config.doubled_hour is Doubled.LATER)
    if config.doubled_hour is Doubled.IN_ORDER:
        # The first row of a series for a doubled time is the earlier instant, the second the later one, and so on if
        # the file repeats itself.
        doubled = batch.rows.filter(early != late).select(ROW, again=pl.int_range(pl.len()).over(KEY) % 2 == 1)
        is_late = pl.col(ROW).is_in(doubled.filter("again")[ROW].implode())
    batch.rows = batch.rows.with_columns(time=pl.when(is_late).then(late).otherwise(early))


def _check_future(batch: CheckedBatch, config: DatasetConfig, now: datetime) -> None:
    measured = [name for name in config.channels if name not in config.future_covariates]
    is_ahead = pl.col("time") > now + config.step
    if config.future_covariates:  # their values may be ahead of the clock, measured ones may not
        is_ahead &= pl.any_horizontal(pl.col(measured).is_not_null())
    batch.flag_rows("in_the_future", is_ahead)


def _read_values(batch: CheckedBatch, config: DatasetConfig) -> None:
    """Convert the channels to Float64 in their units, and check each value."""
    # One pass over all channels per step, so that polars runs the channels in parallel:
    #
    #   source column   cast       finite   sentinel   unit         bounds
    #   " 12.5"         12.5       12.5     12.5       12500.0      12500.0
    #   "-999"          -999.0     -999.0   null       null         null
    #   "n/a"           flagged: not_a_number
    #   "inf"           inf        flagged: not_finite
    #
    # Each step sees only the rows that the steps before it have left.
    _to_numbers(batch, config)
    column = {name: pl.col(name) for name in config.channels}
    batch.flag_values("not_finite", {name: ~value.is_finite() for name, value in column.items()})
    sentinels = {name: channel.sentinels for name, channel in config.channels.items() if channel.sentinels}
    batch.flag_values("sentinel", {name: column[name].is_in(numbers) for name, numbers in sentinels.items()})
    units = {
        name: conversion(channel.source_unit, channel.unit)
        for name, channel in config.channels.items()
        if channel.source_unit
    }
    batch.rows = batch.rows.with_columns(column[name] * factor + offset for name, (factor, offset) in units.items())
    _check_bounds(batch, config)
    order = [ROW, *KEY, *(["version"] if "version" in batch.rows.columns else []), *config.channels]
    batch.rows = batch.rows.select(order)


def _to_numbers(batch: CheckedBatch, config: DatasetConfig) -> None:
    given = batch.rows
    for name in config.channels:
        dtype = given.schema[name]
        if dtype.is_nested() or dtype.is_temporal() or dtype in _NO_TEXT:
            raise DataError("ingest.not_a_number", f'"{batch.name}": column "{name}" holds {dtype}', "write numbers")
    number = {
        name: pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
        if given.schema[name] == pl.String
        else pl.col(name).cast(pl.Float64, strict=False)
        for name in config.channels
        if given.schema[name] != pl.Float64
    }
    is_given = {
        name: pl.col(name).is_not_null()
        if given.schema[name] != pl.String
        else pl.col(name).str.strip_chars().str.len_bytes() > 0
        for name in number
    }
    batch.flag_values("not_a_number", {name: is_given[name] & value.is_null() for name, value in number.items()})
    batch.rows = batch.rows.with_columns(value.alias(name) for name, value in number.items())


def _check_bounds(batch: CheckedBatch, config: DatasetConfig) -> None:
    bounded = {
        name: (channel.lower, channel.upper)
        for name, channel in config.channels.items()
        if channel.lower is not None or channel.upper is not None
    }
    outside = {
        name: ~pl.col(name).is_between(float("-inf") if low is None else low, float("inf") if high is None else high)
        for name, (low, high) in bounded.items()
    }
    clipped = {name: pl.col(name).clip(*bounds) for name, bounds in bounded.items() if config.channels[name].clip}
    batch.flag_values("out_of_range", outside, clipped)
