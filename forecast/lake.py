"""The lake: Delta tables of observations and issued forecasts, one writer each, on disk before it is acknowledged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from filelock import FileLock, Timeout

from forecast.errors import ConfigError, ConflictError, DataError, StorageError

TIME = pl.Datetime("us", "UTC")
KEY = ("series", "time")
_LOCK_SECONDS = 60

FORECASTS = pl.Schema(
    {
        "forecast_id": pl.String(),
        "issued_month": pl.String(),
        "series": pl.String(),
        "channel": pl.String(),
        "lead": pl.Int32(),
        "time": TIME,
        "mean": pl.Float64(),
        "quantiles": pl.List(pl.Float64()),
    }
)
"""Issued forecasts: one row per series, channel and lead (1 is the first step); quantiles in the issuance's order."""


@dataclass(frozen=True, slots=True)
class MergeCount:
    """What a merge did to the table, row by row."""

    new: int
    changed: int
    unchanged: int
    version: int
    """Version of the table afterwards; the same as before if nothing was new or changed."""


def observation_schema(channels: Sequence[str]) -> pl.Schema:
    """Return the schema of a data set's observations: key, month (the partition), one column per channel."""
    return pl.Schema(
        {"series": pl.String(), "time": TIME, "month": pl.String()} | {name: pl.Float64() for name in channels}
    )


class Observations:
    """The observations of one data set: wide, keyed by (series, time), partitioned by month of UTC time."""

    def __init__(self, lake: Path, locks: Path, dataset: str, channels: Sequence[str]) -> None:
        self._path = lake / dataset / "observations"
        self._lock = locks / f"{dataset}.observations.lock"
        self._schema = observation_schema(channels)

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return DeltaTable.is_deltatable(str(self._path))

    @property
    def version(self) -> int:
        """The table's latest version."""
        return int(self._table().version())

    def merge(self, rows: pl.DataFrame) -> MergeCount:
        """Insert new rows and overwrite changed ones, in one commit; rows already there change nothing.

        ``rows`` has the key and any of the channels, unique keys, UTC times, no null in the key: whoever calls has
        checked that, and it is checked again here because Delta would break the table silently otherwise.
        """
        self._refuse_unsound(rows)
        rows = rows.with_columns(pl.col("time").dt.strftime("%Y-%m").alias("month")).select(list(self._schema))
        with _one_writer(self._lock), _told_storage_errors(self._path):
            if not self.exists:
                write_deltalake(str(self._path), rows, partition_by=["month"])
                _flush(self._path, 0)
                return MergeCount(new=len(rows), changed=0, unchanged=0, version=0)
            months = rows["month"].unique().sort().to_list()
            known = self._scan(None).filter(pl.col("month").is_in(months)).collect()
            channels = [name for name in self._schema if name not in {*KEY, "month"}]
            compared = rows.join(known, on=list(KEY), how="left", suffix="_known", coalesce=True)
            is_new = pl.col("month_known").is_null()
            differs = pl.any_horizontal([~pl.col(name).eq_missing(pl.col(f"{name}_known")) for name in channels])
            new = compared.filter(is_new)
            changed = compared.filter(~is_new & differs)
            delta = pl.concat([new, changed]).select(list(self._schema))
            table = self._table()
            if len(delta):
                quoted = ", ".join(f"'{month}'" for month in delta["month"].unique().sort())
                (
                    table.merge(
                        delta,
                        predicate=f"t.month in ({quoted}) and t.month = s.month "
                        "and t.series = s.series and t.time = s.time",
                        source_alias="s",
                        target_alias="t",
                    )
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .execute()
                )
                _flush(self._path, int(table.version()))
            return MergeCount(len(new), len(changed), len(rows) - len(delta), int(table.version()))

    def read(self, *, version: int | None = None) -> pl.DataFrame:
        """Return all rows, sorted by key, as of the latest or the given version of the table."""
        with _told_storage_errors(self._path):
            return self._scan(version).select(pl.exclude("month")).sort(KEY).collect()

    def _scan(self, version: int | None) -> pl.LazyFrame:
        frame = pl.scan_delta(self._table(version))
        missing = set(self._schema) - set(frame.collect_schema())
        if missing:
            raise ConfigError(
                "lake.channels_changed",
                f'the table "{self._path}" has no channel {", ".join(sorted(missing))}, which the job file names',
                "give the data set with the new channels a new name and ingest it again",
            )
        return frame.select(list(self._schema)).cast({"time": TIME})

    def _table(self, version: int | None = None) -> DeltaTable:
        return DeltaTable(str(self._path), version=version)

    def _refuse_unsound(self, rows: pl.DataFrame) -> None:
        wrong = {name: dtype for name, dtype in rows.schema.items() if self._schema.get(name) != dtype}
        missing = [name for name in self._schema if name not in rows.columns and name != "month"]
        if wrong or missing:
            raise DataError("lake.schema", f"columns do not fit the table: wrong {wrong}, missing {missing}")
        if rows.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
            raise DataError("lake.null_key", "a row has no series or no time")
        if rows.select(pl.struct(KEY).is_duplicated().any()).item():
            raise DataError("lake.duplicate_key", "two rows have the same series and time")


class Forecasts:
    """The issued forecasts of one data set; every one is kept."""

    def __init__(self, lake: Path, locks: Path, dataset: str) -> None:
        self._path = lake / dataset / "forecasts"
        self._lock = locks / f"{dataset}.forecasts.lock"

    def append(self, rows: pl.DataFrame) -> None:
        """Write the rows of one forecast; they are seen only once the ledger names its id."""
        with _one_writer(self._lock), _told_storage_errors(self._path):
            write_deltalake(
                str(self._path), rows.match_to_schema(FORECASTS), mode="append", partition_by=["issued_month"]
            )
            _flush(self._path, int(DeltaTable(str(self._path)).version()))

    def read(self, forecast_id: str, issued_at: datetime) -> pl.DataFrame:
        """Return the rows of one forecast, sorted by series, channel, lead."""
        month = issued_at.strftime("%Y-%m")
        with _told_storage_errors(self._path):
            return (
                pl.scan_delta(DeltaTable(str(self._path)))
                .filter(pl.col("issued_month") == month, pl.col("forecast_id") == forecast_id)
                .sort("series", "channel", "lead")
                .collect()
            )


@contextmanager
def _one_writer(lock: Path) -> Iterator[None]:
    # Concurrent merges fail in Delta even for disjoint keys, so writers of one table take turns.
    try:
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ConflictError(
            "lake.locked",
            f"another process has been writing to this table for {_LOCK_SECONDS} s ({lock.name})",
            "try again when it is done",
        ) from error


@contextmanager
def _told_storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StorageError(
            "lake.failed",
            f'the table "{path}" cannot be used ({str(error).splitlines()[0]})',
            "check the disk and permissions",
        ) from error


def _flush(path: Path, version: int) -> None:
    # Delta never fsyncs: without this, acknowledged rows vanish in a power cut and the table still reads cleanly.
    # The order matters: data before the folders that name them, the log last.
    log = path / "_delta_log" / f"{version:020d}.json"
    added = [json.loads(line).get("add") for line in log.read_text(encoding="utf-8").splitlines()]
    files = [path / entry["path"] for entry in added if entry]
    for target in (*files, *{file.parent for file in files}, path, log, log.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
