"""Bring rows in: read a source, check every row, convert to UTC, merge into the lake, and answer with a receipt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

import data
from forecast.errors import DataError, NotFoundError, StorageError, nearest
from forecast.installation import Installation, replay_start
from forecast.jobs import DatasetJob
from forecast.lake import TIME
from pipelines.clean import clean
from pipelines.sources import SOURCES

_SHOWN = 3
_LATE_ONE_IN = 50
_LATENESS = "3h"
_NO_TEXT = (pl.Binary, pl.Object)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was wrong with rows, and what was done about it."""

    code: str
    count: int
    told: str
    first: tuple[str, ...]
    """The first few places, as ``series time channel=value``."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of one ingestion."""

    dataset: str
    rows: int
    """Rows that were read and released."""
    new: int
    changed: int
    unchanged: int
    data_version: int
    series: tuple[str, ...]
    first: datetime | None
    last: datetime | None
    findings: tuple[Finding, ...] = field(default=())


def ingest(name: str, installation: Installation) -> Receipt:
    """Read the source of a data set and merge what is new; doing it twice changes nothing the second time.

    Raises ``source.*`` if the source cannot be read, ``ingest.*`` if its columns do not fit; nothing is written then.
    """
    job = installation.jobs.datasets[name]
    path = _located(job.source.path, installation.home.path)
    raw = SOURCES[job.source.kind](path)
    _require_columns(raw.columns, job, path.name)
    start = replay_start(job)
    if start is None:
        rows, findings = conform(raw, job, path.name)
    else:
        now = installation.clock(name).now()
        instants = _coarse_instants(raw, job, path.name)
        rows, findings = conform(raw.filter(instants.is_null() | (instants <= now)), job, path.name)
        rows = rows.filter(_released_at(job, start) <= now)
        if not (instants > now).any():
            installation.ledger.stop_clock(name, now)
    horizon = installation.clock(name).now() + job.step
    told = "rows of the future were left out: their times cannot be right"
    rows = _drop(rows, pl.col("time") > horizon, findings, "ingest.in_the_future", told)
    if rows.is_empty():
        raise DataError("ingest.empty", f'"{path}" has no usable row yet', "check the source and its zone")
    table = installation.observations(name)
    counts = table.merge(rows)
    findings += _gaps(table.read(), job)
    return Receipt(
        dataset=name,
        rows=len(rows),
        new=counts.new,
        changed=counts.changed,
        unchanged=counts.unchanged,
        data_version=counts.version,
        series=tuple(rows["series"].unique().sort()),
        first=rows["time"].min(),  # type: ignore[arg-type]  # a polars scalar of a Datetime column
        last=rows["time"].max(),  # type: ignore[arg-type]
        findings=tuple(findings),
    )


def _gaps(rows: pl.DataFrame, job: DatasetJob) -> list[Finding]:
    """Say what is missing on the regular grid of the whole history, and how much of it is filled when it is read."""
    try:
        panel = clean(rows, job)
    except DataError as error:
        return [Finding(error.code, 1, str(error), ())]
    columns = {
        **{name: panel.targets[:, :, number] for number, name in enumerate(job.targets)},
        **{name: panel.past[:, :, number] for number, name in enumerate(job.past_covariates)},
    }
    left = {name: int(np.isnan(values).sum()) for name, values in columns.items()}
    filled = {name: count for name, count in panel.filled.items() if count}
    findings = []
    if filled:
        told = "missing values in the whole history are filled when it is read, as the job file says"
        findings.append(Finding("ingest.filled", sum(filled.values()), told, _counts(filled)))
    if any(left.values()):
        told = "missing values in the whole history stay missing (longer than fill_limit, or before the first)"
        findings.append(Finding("ingest.gaps", sum(left.values()), told, _counts(left)))
    return findings


def _counts(by_channel: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{name} {count}" for name, count in by_channel.items() if count)


def conform(raw: pl.DataFrame, job: DatasetJob, source: str) -> tuple[pl.DataFrame, list[Finding]]:
    """Turn rows as they came into rows the lake takes, with a finding for each kind of thing that was wrong.

    Returns the columns ``series``, ``time`` (UTC) and one ``Float64`` per channel, unique by (series, time).
    """
    _require_columns(raw.columns, job, source)
    findings: list[Finding] = []
    rows = raw.select(
        _series_names(raw, job, source).alias("series"),
        _parsed_time(raw, job, source).alias("time"),
        *[pl.col(name) for name in job.channels],
    )
    no_key = pl.col("series").is_null() | pl.col("time").is_null()
    rows = _drop(rows, no_key, findings, "ingest.null_key", "rows without series or time were left out")
    rows = _as_numbers(rows, job, source)
    rows = _to_utc(rows, job, findings)
    repeats = ~pl.struct(pl.all()).is_first_distinct()
    told = "rows that repeat another one in every column were left out"
    rows = _drop(rows, repeats, findings, "ingest.repeated", told)
    told = "rows with a series and time that a later row has too were left out"
    rows = _drop(rows, ~pl.struct("series", "time").is_last_distinct(), findings, "ingest.conflicting", told)
    return _within_bounds(rows, job, findings).sort("series", "time"), findings


def _located(path: str, base: Path) -> Path:
    if path.startswith("sample:"):
        name = path.removeprefix("sample:")
        found = Path(data.__file__).parent / f"{name}.parquet"
        if not found.is_file():
            samples = [file.stem for file in found.parent.glob("*.parquet")]
            raise NotFoundError("source.unknown_sample", f'there is no sample "{name}"', nearest(name, samples))
        return found
    found = (base / Path(path).expanduser()).absolute()
    if not found.exists():
        raise NotFoundError(
            "source.not_found", f'the source "{found}" does not exist', "mend source.path in the job file"
        )
    try:
        found.open("rb").close()
    except OSError as error:
        raise StorageError(
            "source.unreadable", f'cannot read "{found}" ({error.strerror})', "check its permissions"
        ) from error
    return found


def _require_columns(present: Iterable[str], job: DatasetJob, source: str) -> None:
    present = list(present)
    for wanted in (job.time, job.series, *job.channels):
        if wanted not in present:
            raise DataError(
                "ingest.missing_column",
                f'"{source}" has no column "{wanted}"',
                nearest(wanted, present) + " (set it in the job file)",
            )


def _series_names(raw: pl.DataFrame, job: DatasetJob, source: str) -> pl.Series:
    names = raw[job.series]
    if names.dtype.is_nested() or names.dtype in _NO_TEXT:
        raise DataError(
            "ingest.malformed_series", f'"{source}": column "{job.series}" holds {names.dtype}', "give names"
        )
    names = names.cast(pl.String).str.strip_chars()
    return names.set(names == "", None)


def _parsed_time(raw: pl.DataFrame, job: DatasetJob, source: str) -> pl.Series:
    times = raw[job.time]
    if isinstance(times.dtype, pl.Datetime):
        return times.dt.cast_time_unit("us")
    if times.dtype == pl.Date:
        return times.cast(pl.Datetime("us"))
    if times.dtype == pl.Null:
        return times.cast(pl.Datetime("us"))
    parsed = pl.Series(job.time, [None] * len(times), dtype=pl.Datetime("us"))
    if times.dtype == pl.String:
        with contextlib.suppress(pl.exceptions.PolarsError):  # raised if no row looks like a time
            parsed = times.str.strip_chars().str.to_datetime(time_unit="us", strict=False)
    bad = raw.with_row_index("__row", offset=1).filter(parsed.is_null() & times.is_not_null())
    if len(bad):
        raise DataError(
            "ingest.malformed_time",
            f'"{source}", row {bad["__row"][0]}: "{bad[job.time][0]}" in column "{job.time}" is not a time '
            f"({len(bad)} such rows)",
            'write times as "2013-01-31 17:00:00"',
        )
    return parsed


def _coarse_instants(raw: pl.DataFrame, job: DatasetJob, source: str) -> pl.Series:
    """Return UTC times that are right but for the doubled hour, whose two instants become the earlier one."""
    times = _parsed_time(raw, job, source)
    if times.dtype.time_zone is None:  # type: ignore[attr-defined]  # _parsed_time returns datetimes
        times = times.dt.replace_time_zone(job.tz.key, ambiguous="earliest", non_existent="null")
    return times.dt.convert_time_zone("UTC")


def _as_numbers(rows: pl.DataFrame, job: DatasetJob, source: str) -> pl.DataFrame:
    for name in job.channels:
        if rows[name].dtype.is_nested() or rows[name].dtype.is_temporal() or rows[name].dtype in _NO_TEXT:
            raise DataError(
                "ingest.not_a_number", f'"{source}": column "{name}" holds {rows[name].dtype}', "give numbers"
            )
    numbers = rows.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in job.channels)
    for name in job.channels:
        bad = rows.filter(numbers[name].is_null() & rows[name].is_not_null())
        if len(bad):
            raise DataError(
                "ingest.not_a_number",
                f'"{source}", {bad["series"][0]} at {bad["time"][0]}: "{bad[name][0]}" in column "{name}" '
                f"is not a number ({len(bad)} such rows)",
                "mend the rows or leave the cell empty",
            )
    return numbers


def _to_utc(rows: pl.DataFrame, job: DatasetJob, findings: list[Finding]) -> pl.DataFrame:
    is_aware = rows.schema["time"].time_zone is not None  # type: ignore[attr-defined]  # _parsed_time gives datetimes
    if job.counts_days:
        # A day is a date: local midnight wherever the zone's clock stands, told as midnight UTC.
        wall = pl.col("time").dt.convert_time_zone(job.zone).dt.replace_time_zone(None) if is_aware else pl.col("time")
        rows = _drop_off_grid(rows, wall, timedelta(days=1), job, findings)
        return rows.with_columns(time=wall.dt.replace_time_zone("UTC").cast(TIME))
    rows = _drop_off_grid(rows, pl.col("time"), job.step, job, findings)
    if is_aware:
        return rows.with_columns(pl.col("time").dt.convert_time_zone("UTC").cast(TIME))
    # In autumn the local hour between two offsets comes twice: of a series' rows for it the first is the earlier
    # instant, the second the later, and so on if the file repeats itself. A source telling it once means the earlier.
    local = rows.with_columns(
        __first=pl.col("time").dt.replace_time_zone(job.zone, ambiguous="earliest", non_existent="null"),
        __second=pl.col("time").dt.replace_time_zone(job.zone, ambiguous="latest", non_existent="null"),
        __again=pl.int_range(pl.len()).over("series", "time") % 2 == 1,
    )
    ambiguous = local.filter(pl.col("__first") != pl.col("__second"))
    if len(ambiguous):
        told = (
            "local times that autumn's clock change doubles: the first row is the earlier instant, a second the later"
        )
        findings.append(Finding("ingest.doubled_hour", len(ambiguous), told, _places(ambiguous)))
    told = "rows at local times that spring's clock change skips were left out"
    local = _drop(local, pl.col("__first").is_null(), findings, "ingest.missing_hour", told)
    chosen = pl.when("__again").then("__second").otherwise("__first").dt.convert_time_zone("UTC").cast(TIME)
    return local.with_columns(time=chosen).drop("__first", "__second", "__again")


def _drop_off_grid(
    rows: pl.DataFrame, wall: pl.Expr, step: timedelta, job: DatasetJob, findings: list[Finding]
) -> pl.DataFrame:
    # Naive times are measured on the wall: full hours of a zone half an hour from UTC are full hours.
    is_off = wall.dt.epoch("us") % int(step.total_seconds() * 1e6) != 0
    told = f"rows whose time is not a multiple of {job.frequency} were left out"
    return _drop(rows, is_off, findings, "ingest.off_grid", told)


def _within_bounds(rows: pl.DataFrame, job: DatasetJob, findings: list[Finding]) -> pl.DataFrame:
    for name, channel in job.channels.items():
        value = pl.col(name)
        wrong = value.is_nan() | value.is_infinite()
        if channel.lower is not None:
            wrong |= value < channel.lower
        if channel.upper is not None:
            wrong |= value > channel.upper
        bad = rows.filter(wrong)
        if len(bad):
            places = tuple(f"{row['series']} {row['time']} {name}={row[name]:g}" for row in bad.head(_SHOWN).to_dicts())
            told = f"values of {name} that are not finite or outside [{channel.lower}, {channel.upper}] became missing"
            findings.append(Finding("ingest.out_of_range", len(bad), told, places))
            rows = rows.with_columns(pl.when(~wrong).then(value).alias(name))
    return rows


def _released_at(job: DatasetJob, start: datetime) -> pl.Expr:
    # A row is there once its step is over; one in fifty comes late, always the same ones, as in a real feed.
    late = pl.struct("series", "time").hash(seed=7) % _LATE_ONE_IN == 0
    ready = pl.col("time") + job.step
    is_history = ready <= start
    return pl.when(late & ~is_history).then(ready.dt.offset_by(_LATENESS)).otherwise(ready)


def _drop(rows: pl.DataFrame, wrong: pl.Expr, findings: list[Finding], code: str, told: str) -> pl.DataFrame:
    marked = rows.with_columns(wrong.fill_null(value=False).alias("__wrong"))
    bad = marked.filter("__wrong")
    if len(bad):
        findings.append(Finding(code, len(bad), told, _places(bad)))
    return marked.filter(~pl.col("__wrong")).drop("__wrong")


def _places(rows: pl.DataFrame) -> tuple[str, ...]:
    return tuple(f"{row['series']} {row['time']}" for row in rows.head(_SHOWN).to_dicts())
