"""The lake: Delta tables of observations and issued forecasts, one writer each, on disk before it is acknowledged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from filelock import FileLock, Timeout

from forecast.durability import flush
from forecast.errors import ConfigError, ConflictError, DataError, StorageError

TIME = pl.Datetime("us", "UTC")
KEY = ("series", "time")
_LOCK_SECONDS = 60
_BEFORE = " before"  # no channel's name has a space
_UNUSABLE = frozenset("%[]|^\\") | {chr(code) for code in range(32)}

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


class _Table:
    """One Delta table: one writer at a time, and nothing acknowledged before it is on disk."""

    def __init__(self, path: Path, lock: Path, partition: str) -> None:
        _refuse_unusable(path)
        self._path = path
        self._lock = lock
        self._partition = partition
        self._flushed: int | None = None

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        with _told_storage_errors(self._path):
            return bool(DeltaTable.is_deltatable(str(self._path)))

    @property
    def version(self) -> int:
        """The table's latest version."""
        with _told_storage_errors(self._path):
            return int(self._table().version())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _one_writer(self._lock), _told_storage_errors(self._path):
            if self.exists:
                self._secure(self.version)
            yield

    def _secure(self, version: int) -> None:
        # Whoever wrote this version may have died before its flush. As every writer sees to that before it adds a
        # version, at most the latest is ever missing from the disk.
        if version != self._flushed:
            _flush(self._path, version)
            self._flushed = version

    def _scan(self, table: DeltaTable, schema: pl.Schema, months: Sequence[str] | None = None) -> pl.LazyFrame:
        """Return the rows of all months or of some, without the partition's column.

        The files are named here, not by ``pl.scan_delta``: that takes a folder's ``%20`` or ``?`` for an escape, and a
        ``c=d`` above the table for a partition.
        """
        actions = pl.DataFrame(table.get_add_actions(flatten=True))
        if months is not None and len(actions):
            actions = actions.filter(pl.col(f"partition.{self._partition}").is_in(months))
        columns = pl.Schema({name: dtype for name, dtype in schema.items() if name != self._partition})
        if not len(actions):
            return pl.LazyFrame(schema=columns)
        return pl.scan_parquet(
            [self._path / unquote(path) for path in actions["path"]],
            schema=columns,
            glob=False,
            hive_partitioning=False,
            missing_columns="insert",
            extra_columns="ignore",
        )

    def _table(self, version: int | None = None) -> DeltaTable:
        return DeltaTable(str(self._path), version=version)


class Observations(_Table):
    """The observations of one data set: wide, keyed by (series, time), partitioned by month of UTC time."""

    def __init__(self, lake: Path, locks: Path, dataset: str, channels: Sequence[str]) -> None:
        super().__init__(lake / dataset / "observations", locks / f"{dataset}.observations.lock", "month")
        self._schema = observation_schema(channels)

    def merge(self, rows: pl.DataFrame) -> MergeCount:
        """Insert new rows and overwrite changed ones, in one commit; rows already there change nothing.

        ``rows`` has the key and any of the channels, unique keys, UTC times, no null in the key: whoever calls has
        checked that, and it is checked again here because Delta would break the table silently otherwise.
        """
        self._refuse_unsound(rows)
        rows = rows.with_columns(_month()).select(list(self._schema))
        with self._writing():
            if not self.exists:
                write_deltalake(str(self._path), rows, partition_by=["month"])
                self._secure(0)
                return MergeCount(new=len(rows), changed=0, unchanged=0, version=0)
            table = self._table()
            new, changed = self._compared(rows, table)
            delta = pl.concat([new, changed])
            if len(delta):
                self._upsert(table, delta)
                self._secure(int(table.version()))
            return MergeCount(len(new), len(changed), len(rows) - len(delta), int(table.version()))

    def read(self, *, version: int | None = None) -> pl.DataFrame:
        """Return all rows, sorted by key, as of the latest or the given version of the table."""
        with _told_storage_errors(self._path):
            return self._rows(self._table(version)).sort(KEY).collect()

    def _rows(self, table: DeltaTable, months: Sequence[str] | None = None) -> pl.LazyFrame:
        missing = set(self._schema) - {field.name for field in table.schema().fields}
        if missing:
            raise ConfigError(
                "lake.channels_changed",
                f'the table "{self._path}" has no channel {", ".join(sorted(missing))}, which the job file names',
                "give the data set with the new channels a new name and ingest it again",
            )
        return self._scan(table, self._schema, months)

    def _compared(self, rows: pl.DataFrame, table: DeltaTable) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return which rows are new, and which are known with other values."""
        known = self._rows(table, rows["month"].unique().to_list()).with_columns(_month()).collect()
        compared = rows.join(known, on=list(KEY), how="left", suffix=_BEFORE, coalesce=True)
        channels = [name for name in self._schema if name not in {*KEY, "month"}]
        is_new = pl.col("month" + _BEFORE).is_null()
        differs = pl.any_horizontal([~pl.col(name).eq_missing(pl.col(name + _BEFORE)) for name in channels])
        columns = list(self._schema)
        return compared.filter(is_new).select(columns), compared.filter(~is_new & differs).select(columns)

    @staticmethod
    def _upsert(table: DeltaTable, rows: pl.DataFrame) -> None:
        quoted = ", ".join(f"'{month}'" for month in rows["month"].unique().sort())
        (
            table.merge(
                rows,
                predicate=f"t.month in ({quoted}) and t.month = s.month and t.series = s.series and t.time = s.time",
                source_alias="s",
                target_alias="t",
            )
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )

    def _refuse_unsound(self, rows: pl.DataFrame) -> None:
        wrong = {name: dtype for name, dtype in rows.schema.items() if self._schema.get(name) != dtype}
        missing = [name for name in self._schema if name not in rows.columns and name != "month"]
        if wrong or missing:
            raise DataError("lake.schema", f"columns do not fit the table: wrong {wrong}, missing {missing}")
        if rows.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
            raise DataError("lake.null_key", "a row has no series or no time")
        if rows.select(pl.struct(KEY).is_duplicated().any()).item():
            raise DataError("lake.duplicate_key", "two rows have the same series and time")


class Forecasts(_Table):
    """The issued forecasts of one data set; every one is kept."""

    def __init__(self, lake: Path, locks: Path, dataset: str) -> None:
        super().__init__(lake / dataset / "forecasts", locks / f"{dataset}.forecasts.lock", "issued_month")

    def append(self, rows: pl.DataFrame) -> None:
        """Write the rows of one forecast; they are seen only once the ledger names its id."""
        with self._writing():
            write_deltalake(
                str(self._path), rows.match_to_schema(FORECASTS), mode="append", partition_by=[self._partition]
            )
            self._secure(self.version)

    def read(self, forecast_id: str, issued_at: datetime) -> pl.DataFrame:
        """Return the rows of one forecast, sorted by series, channel, lead."""
        month = issued_at.strftime("%Y-%m")
        with _told_storage_errors(self._path):
            return (
                self._scan(self._table(), FORECASTS, [month])
                .filter(pl.col("forecast_id") == forecast_id)
                .with_columns(pl.lit(month).alias(self._partition))
                .select(list(FORECASTS))
                .sort("series", "channel", "lead")
                .collect()
            )


def _month() -> pl.Expr:
    return pl.col("time").dt.strftime("%Y-%m").alias("month")


def _refuse_unusable(path: Path) -> None:
    # Delta would take "%20" for a space and write elsewhere, and it dies of the others.
    found = sorted(_UNUSABLE.intersection(str(path)))
    if found:
        told = " ".join(character if character.isprintable() else repr(character) for character in found)
        raise ConfigError(
            "lake.unusable_path",
            f'no table can lie in "{path.parent}": the name has {told}',
            "rename the folders of the home, or move it",
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
    except OSError as error:
        raise StorageError(
            "lake.lock_failed", f'cannot lock "{lock}" ({error.strerror})', "check the folder and its permissions"
        ) from error


@contextmanager
def _told_storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StorageError(
            "lake.failed",
            f'the table "{path}" cannot be used ({_first_line(error)})',
            "check the disk and permissions",
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _flush(path: Path, version: int) -> None:
    # Delta never fsyncs: without this, acknowledged rows vanish in a power cut and the table still reads cleanly.
    # The order matters: data before the folders that name them, the log last.
    log = path / "_delta_log" / f"{version:020d}.json"
    added = [json.loads(line).get("add") for line in log.read_text(encoding="utf-8").splitlines()]
    files = [path / unquote(entry["path"]) for entry in added if entry]
    above = path.parents[:3] if version == 0 else ()  # a new table's folders: data set, lake, home
    # Every reader starts from the newest checkpoint, so one that is half on disk would be worse than none.
    checkpoints = sorted(log.parent.glob(f"{version:020d}.checkpoint*"))
    newest = [log.parent / "_last_checkpoint"] if checkpoints else []
    for target in (*files, *{file.parent for file in files}, path, *above, *checkpoints, *newest, log, log.parent):
        flush(target)
