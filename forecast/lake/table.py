"""A Delta table with one writer at a time: durable before it is acknowledged, verified before it is read.

Readers see only acknowledged versions, whose file of checksums is on disk. A write is safe at every moment by its
order: flush the data files, commit the log that names them, flush the log, write and flush the checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions
from filelock import FileLock, Timeout

from forecast.clock import Clock, SystemClock
from forecast.errors import ConfigError, NotFoundError, StorageError
from forecast.lake import commit_log
from forecast.lake.acknowledgement import Acknowledgement
from forecast.lake.checksums import Digests, corrupt
from forecast.lake.commit_log import DeltaLog
from forecast.lake.locks import one_writer, translated_storage_errors
from forecast.lake.storage import Folder

FILE: Final = " file"  # no channel's name has a space
_UNUSABLE = frozenset("%[]|^\\") | {chr(code) for code in range(32)}
_SMALL_BYTES = 8 * 2**20
MANY_FILES: Final = 32
"""Number of small files in one month from which the next write to it compacts them."""
# Acknowledgement makes the checkpoints, between commit and checksums; only `maintain` removes old logs.
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One acknowledged version of a table, with its log verified."""

    version: int
    table: DeltaTable
    files: pl.DataFrame
    """The data files: ``path`` as the log has it, ``name`` on disk, ``bytes``, ``part`` (the partition's value)."""
    digests: Mapping[str, str]
    """SHA-256 by name, of these files and of some that the version no longer has."""

    @property
    def schema(self) -> pl.Schema:
        """The table's columns."""
        return pl.Schema(self.table.schema().to_arrow())

    def small(self, parts: Iterable[str], at_least: int) -> pl.DataFrame:
        """Return the small files (under 8 MiB) of those partitions that have ``at_least`` of them."""
        small = self.files.filter(pl.col("bytes") < _SMALL_BYTES, pl.col("part").is_in(list(parts)))
        return small.filter(pl.len().over("part") >= at_least)


class VersionedTable:
    """One Delta table, partitioned by a column of months such as ``2024-01``: reads versions, and adds one."""

    def __init__(self, location: Path | str, lock: Path, partition: str, clock: Clock | None = None) -> None:
        _refuse_unusable(location)
        self._folder = Folder(location)
        self._digests = Digests(self._folder)
        self._log = DeltaLog(self._folder)
        self._lock = lock
        self._partition = partition
        self._clock = clock or SystemClock()
        self._acknowledgement = Acknowledgement(self._folder, self._digests, self._log, self._clock)

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        with translated_storage_errors(self._folder.location):
            return bool(self._versions())

    @property
    def version(self) -> int:
        """The latest acknowledged version; raises ``lake.no_table`` if there is none."""
        with translated_storage_errors(self._folder.location):
            return self._kept(None)

    @property
    def versions(self) -> list[int]:
        """The acknowledged versions that can still be read, oldest first."""
        with translated_storage_errors(self._folder.location):
            return self._versions()

    def recorded_at(self, version: int) -> datetime:
        """Return the time at which a version was written, from its own commit.

        Raises ``lake.no_version`` or ``lake.not_kept`` if the version cannot be read.
        """
        with translated_storage_errors(self._folder.location):
            return self._recorded_at(self._kept(version))

    def version_at(self, time: datetime) -> int:
        """Return the version that was the latest at ``time``, by the times recorded in the commits.

        Raises ``lake.before_first`` if there was none yet, ``lake.not_kept`` if maintenance has removed it since.
        """
        with translated_storage_errors(self._folder.location):
            versions = self._versions()
            # No commit records an earlier time than the one before it: they are in order.
            found = bisect_right(versions, time, key=self._recorded_at)
            if not found and 0 in versions[:1]:
                raise NotFoundError("lake.before_first", f"the table was created after {time.isoformat()}")
            version = versions[found - 1] if found else -1
            if found < len(versions) and versions[found] != version + 1:
                raise _not_kept(f"the version of {time.isoformat()}")
            return self._kept(version)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _versions(self) -> list[int]:
        """Return the acknowledged versions, oldest first; first recover a tail that no writer is working on."""
        versions, logs = self._digests.versions(), self._log.versions()
        if logs and logs[-1] > max(versions, default=-1):
            with suppress(Timeout), FileLock(self._lock, timeout=0):
                self._acknowledgement.recover()
            versions = self._digests.versions()
        return versions

    def _kept(self, version: int | None) -> int:
        """Return ``version`` if it can be read, or the latest one for ``None``."""
        versions = self._versions()
        if not versions:
            raise StorageError(
                "lake.no_table", f'the table "{self._folder.location}" does not exist', 'run "forecast ingest" first'
            )
        if version is None or version in versions:
            return versions[-1] if version is None else version
        if 0 <= version < versions[-1]:
            raise _not_kept(f"version {version}")
        raise NotFoundError("lake.no_version", f"version {version} does not exist", f"the latest is {versions[-1]}")

    def _recorded_at(self, version: int) -> datetime:
        log = commit_log.name_of(version)
        self._digests.verify({log: self._digests.read(version).files[log]})
        return self._log.commit(version).recorded_at

    def _open(self, version: int) -> Snapshot:
        listed = self._digests.up_to(version)
        checkpoints = self._log.checkpoints()
        for name in checkpoints.get(max((each for each in checkpoints if each <= version), default=-1), ()):
            if name not in listed:
                raise corrupt(self._folder.place(name), "this table's writer did not make it")
        self._digests.verify({name: listed[name] for name in commit_log.in_log(listed)})
        table = DeltaTable(self._folder.location, version=version)
        return Snapshot(version, table, self._files(table), listed)

    def _files(self, table: DeltaTable) -> pl.DataFrame:
        columns = {"path": pl.String(), "size_bytes": pl.Int64(), f"partition.{self._partition}": pl.String()}
        actions = pl.DataFrame(table.get_add_actions(flatten=True))
        files = actions.select(list(columns)) if len(actions) else pl.DataFrame(schema=columns)
        files.columns = ["path", "bytes", "part"]
        return files.with_columns(pl.Series("name", [unquote(path) for path in files["path"]], dtype=pl.String))

    def _rows(self, snapshot: Snapshot, files: pl.DataFrame) -> pl.LazyFrame:
        """Return the rows of some files, each verified, without the partition's column; ``FILE`` is the file's path.

        The files are listed here because ``pl.scan_delta`` takes a folder's ``%20`` or ``?`` for an escape, and a
        ``c=d`` above the table for a partition.
        """
        columns = pl.Schema({name: dtype for name, dtype in snapshot.schema.items() if name != self._partition})
        if not len(files):
            return pl.LazyFrame(schema={**columns, FILE: pl.String()})
        for name in files["name"]:
            if name not in snapshot.digests:
                raise corrupt(self._folder.place(name), "the table's checksums do not list it")
        self._digests.verify({name: snapshot.digests[name] for name in files["name"]})
        return pl.scan_parquet(
            [self._folder.place(name) for name in files["name"]],
            schema=columns,
            glob=False,
            hive_partitioning=False,
            missing_columns="insert",
            extra_columns="ignore",
            include_file_paths=FILE,
        )

    # --- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Snapshot | None]:
        with one_writer(self._lock), translated_storage_errors(self._folder.location):
            self._acknowledgement.recover()
            versions = self._digests.versions()
            yield self._open(versions[-1]) if versions else None

    def _create(self, schema: pl.Schema, frames: Iterable[tuple[str, pl.DataFrame]]) -> int:
        """Create the table with its first rows, by partition; acknowledged on return."""
        actions, properties = self._written(None, frames, [], changes_data=True)
        create_table_with_add_actions(
            self._folder.location,
            Schema.from_arrow(schema),
            actions,
            partition_by=[self._partition],
            commit_properties=properties,
            post_commithook_properties=_HOOKS,
        )
        return self._acknowledgement.acknowledge(0, None)

    def _commit(
        self,
        snapshot: Snapshot,
        frames: Iterable[tuple[str, pl.DataFrame]],
        replaced: pl.DataFrame | None = None,
        *,
        changes_data: bool = True,
    ) -> int:
        """Write frames, each into its partition, in place of the ``replaced`` files; acknowledged on return."""
        stamp = int(self._now(snapshot).timestamp() * 1000)
        removed = [
            RemoveAction(path, changes_data, stamp, size, {self._partition: part})
            for path, size, part in (snapshot.files.clear() if replaced is None else replaced)
            .select("path", "bytes", "part")
            .iter_rows()
        ]
        added, properties = self._written(snapshot, frames, removed, changes_data=changes_data)
        snapshot.table.create_write_transaction(
            [*added, *removed],
            "append",
            snapshot.table.schema(),
            [self._partition],
            commit_properties=properties,
            post_commithook_properties=_HOOKS,
        )
        return self._acknowledgement.acknowledge(snapshot.version + 1, snapshot.version)

    def _append(self, snapshot: Snapshot | None, rows: pl.DataFrame) -> int:
        """Append rows that have the partition's column; compact a partition's small files once it has many."""
        if snapshot is None:  # these may be years of rows: copy one partition at a time
            partition = pl.col(self._partition)
            parts = rows[self._partition].unique().sort()
            each = ((part, rows.filter(partition == part).drop(self._partition)) for part in parts)
            return self._create(rows.schema, each)
        months = rows.partition_by(self._partition, as_dict=True, include_key=False)
        frames = {str(key[0]): part for key, part in months.items()}
        small = snapshot.small(frames, MANY_FILES)
        for part in small["part"].unique():
            known = self._rows(snapshot, small.filter(pl.col("part") == part)).drop(FILE).collect()
            frames[part] = pl.concat([known, frames[part]], how="diagonal")
        return self._commit(snapshot, frames.items(), small)

    def _extend(self, snapshot: Snapshot, columns: pl.Schema) -> Snapshot:
        """Add the columns that the table lacks; they are null in all existing rows."""
        missing = pl.Schema({name: dtype for name, dtype in columns.items() if name not in snapshot.schema})
        if not missing:
            return snapshot
        fields = Schema.from_arrow(missing).fields
        return self._alter(
            snapshot,
            lambda table, commit, hooks: table.alter.add_columns(
                fields, commit_properties=commit, post_commithook_properties=hooks
            ),
        )

    def _alter(
        self, snapshot: Snapshot, change: Callable[[DeltaTable, CommitProperties, PostCommitHookProperties], None]
    ) -> Snapshot:
        """Change the table's columns or properties in one version; acknowledged on return."""
        _, properties = self._written(snapshot, (), [], changes_data=False)
        change(snapshot.table, properties, _HOOKS)
        return self._open(self._acknowledgement.acknowledge(snapshot.version + 1, snapshot.version))

    def _written(
        self,
        snapshot: Snapshot | None,
        frames: Iterable[tuple[str, pl.DataFrame]],
        removed: list[RemoveAction],
        *,
        changes_data: bool,
    ) -> tuple[list[AddAction], CommitProperties]:
        """Write and flush data files; returns their add actions, and the metadata for the commit that names them."""
        now = self._now(snapshot)
        digests: dict[str, str] = {}
        added: list[AddAction] = []
        for part, frame in frames:
            name = f"{self._partition}={part}/{uuid4()}.parquet"
            buffer = io.BytesIO()
            # snappy reads twice as fast as zstd and is a quarter larger.
            self._arranged(frame).write_parquet(buffer, compression="snappy")
            content = buffer.getbuffer()
            self._folder.write(name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
            self._digests.remember(name, digests[name])
            statistics = json.dumps({"numRecords": len(frame)})
            modified = int(now.timestamp() * 1000)
            added.append(AddAction(name, len(content), {self._partition: part}, modified, changes_data, statistics))
        self._folder.flush([*sorted({name.split("/", 1)[0] for name in digests}), ""] if digests else [])
        metadata = commit_log.metadata(now, digests, len(added) + len(removed))
        return added, CommitProperties(custom_metadata=metadata)

    def _arranged(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows in the order in which files store them; subclasses sort them."""
        return rows

    def _now(self, snapshot: Snapshot | None) -> datetime:
        # A clock may be set back; the times of versions must not decrease.
        now = self._clock.now()
        return now if snapshot is None else max(now, self._recorded_at(snapshot.version))


def table_location(lake: Path | str, dataset: str, table: str) -> Path | str:
    """Return the path or URL of a data set's table.

    >>> table_location("s3://bucket/lake/", "load", "observations")
    's3://bucket/lake/load/observations'
    """
    return lake / dataset / table if isinstance(lake, Path) else f"{lake.rstrip('/')}/{dataset}/{table}"


def _not_kept(what: str) -> NotFoundError:
    return NotFoundError(
        "lake.not_kept", f"{what} is no longer kept", "maintenance removes versions older than its retention"
    )


def _refuse_unusable(location: Path | str) -> None:
    # Delta reads "%20" as a space and writes to another folder; the other characters make it fail.
    found = sorted(_UNUSABLE.intersection(str(location)))
    if found:
        characters = " ".join(character if character.isprintable() else repr(character) for character in found)
        raise ConfigError(
            "lake.unusable_path",
            f'the path "{str(location).rpartition("/")[0]}" has characters that Delta cannot store: {characters}',
            "rename the folders of the home, or move the home",
        )
