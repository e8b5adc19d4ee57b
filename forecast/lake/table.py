"""A Delta table with one writer at a time, on disk before it is acknowledged, and never read unverified.

A version is acknowledged once its file of digests is on disk, and only acknowledged versions are read. The order of a
write keeps that safe at every moment: data files are flushed, then the log names them, then the log is flushed, then
the digests are. Whatever ends before the last step leaves a tail that nobody was told of; whoever comes next takes it
in if it is whole, and puts it aside if a power cut has torn it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
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
from forecast.durability import flush
from forecast.errors import ConfigError, NotFoundError, StorageError
from forecast.lake import commit_log
from forecast.lake.checksums import Digests, corrupt
from forecast.lake.commit_log import DeltaLog
from forecast.lake.locks import one_writer, told_storage_errors
from forecast.lake.storage import Folder

FILE: Final = " file"  # no channel's name has a space
_UNUSABLE = frozenset("%[]|^\\") | {chr(code) for code in range(32)}
ASIDE: Final = "_quarantine"
"""The folder, within a table's, of what a power cut has torn."""
_CHECKPOINT_EVERY = 20
_SMALL_BYTES = 8 * 2**20
MANY_FILES: Final = 32
"""So many small files of one month are put together by the next write to it."""
# Checkpoints are made here, between a commit and its acknowledgement, and old logs are removed by `maintain` alone.
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)

_messages = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One acknowledged version of a table, its log verified."""

    version: int
    table: DeltaTable
    files: pl.DataFrame
    """The data files: ``path`` as the log has it, ``name`` on disk, ``bytes``, ``part`` (the partition's value)."""
    digests: Mapping[str, str]

    @property
    def schema(self) -> pl.Schema:
        """The table's columns."""
        return pl.Schema(self.table.schema().to_arrow())

    def small(self, parts: Iterable[str], at_least: int) -> pl.DataFrame:
        """Return the small files of partitions that have some number of them or more."""
        small = self.files.filter(pl.col("bytes") < _SMALL_BYTES, pl.col("part").is_in(list(parts)))
        return small.filter(pl.len().over("part") >= at_least)


class VersionedTable:
    """One Delta table, partitioned by a column of months: its versions, and how one is added."""

    def __init__(self, location: Path | str, lock: Path, partition: str, clock: Clock | None = None) -> None:
        _refuse_unusable(location)
        self._folder = Folder(location)
        self._digests = Digests(self._folder)
        self._log = DeltaLog(self._folder)
        self._lock = lock
        self._partition = partition
        self._clock = clock or SystemClock()

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        with told_storage_errors(self._folder.location):
            return bool(self._versions())

    @property
    def version(self) -> int:
        """The latest acknowledged version."""
        with told_storage_errors(self._folder.location):
            return self._kept(None)

    @property
    def versions(self) -> list[int]:
        """The acknowledged versions that can still be read, oldest first."""
        with told_storage_errors(self._folder.location):
            return self._versions()

    def recorded_at(self, version: int) -> datetime:
        """Return when a version was written, by its own commit; raises as reading it would."""
        with told_storage_errors(self._folder.location):
            return self._recorded_at(self._kept(version))

    def version_at(self, time: datetime) -> int:
        """Return the version that was the latest at a time, by the times that the commits themselves recorded.

        Raises ``lake.before_first`` if there was none yet, ``lake.not_kept`` if maintenance has removed it since.
        """
        with told_storage_errors(self._folder.location):
            versions = self._versions()
            # No commit records an earlier time than the one before it: they are in order.
            found = bisect_right(versions, time, key=self._recorded_at)
            if not found and 0 in versions[:1]:
                raise NotFoundError("lake.before_first", f"the table was begun after {time.isoformat()}")
            at = versions[found - 1] if found else -1
            if found < len(versions) and versions[found] != at + 1:
                raise _not_kept(f"what was known at {time.isoformat()}")
            return self._kept(at)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _versions(self) -> list[int]:
        """Return the acknowledged versions, oldest first; a tail that no writer is at work on is settled before."""
        versions, logs = self._digests.versions(), self._log.versions()
        if logs and logs[-1] > max(versions, default=-1):
            with suppress(Timeout), FileLock(self._lock, timeout=0):
                self._settle()
            versions = self._digests.versions()
        return versions

    def _kept(self, version: int | None) -> int:
        """Return a version that can be read, the latest if none is asked for."""
        versions = self._versions()
        if not versions:
            raise StorageError(
                "lake.no_table", f'nothing was ever written to "{self._folder.location}"', "ingest first"
            )
        if version is None or version in versions:
            return versions[-1] if version is None else version
        if 0 <= version < versions[-1]:
            raise _not_kept(f"version {version}")
        raise NotFoundError("lake.no_version", f"there is no version {version}", f"the latest is {versions[-1]}")

    def _recorded_at(self, version: int) -> datetime:
        log = commit_log.name_of(version)
        self._digests.verify({log: self._digests.read(version).files[log]})
        return self._log.commit(version).recorded_at

    def _listed(self, version: int) -> dict[str, str]:
        """Return the digests of all files of a version, and of some that it no longer has."""
        files: dict[str, str] = {}
        for each in range(version, -1, -1):
            listing = self._digests.read(each)
            files = {**listing.files, **files}
            if listing.is_whole:
                break
        return files

    def _open(self, version: int) -> Snapshot:
        listed = self._listed(version)
        checkpoints = self._log.checkpoints()
        for name in checkpoints.get(max((each for each in checkpoints if each <= version), default=-1), ()):
            if name not in listed:
                raise corrupt(self._folder.place(name), "it is not one that this table's writer made")
        self._digests.verify({name: listed[name] for name in commit_log.in_log(listed)})
        table = DeltaTable(self._folder.location, version=version)
        return Snapshot(version, table, self._files(table), listed)

    def _files(self, table: DeltaTable) -> pl.DataFrame:
        columns = {"path": pl.String(), "size_bytes": pl.Int64(), f"partition.{self._partition}": pl.String()}
        actions = pl.DataFrame(table.get_add_actions(flatten=True))
        files = actions.select(list(columns)) if len(actions) else pl.DataFrame(schema=columns)
        files.columns = ["path", "bytes", "part"]
        return files.with_columns(pl.Series("name", [unquote(path) for path in files["path"]], dtype=pl.String))

    def _rows(self, at: Snapshot, files: pl.DataFrame) -> pl.LazyFrame:
        """Return the rows of some files, each verified, without the partition's column; ``FILE`` names the file.

        The files are named here, not by ``pl.scan_delta``: that takes a folder's ``%20`` or ``?`` for an escape, and a
        ``c=d`` above the table for a partition.
        """
        columns = pl.Schema({name: dtype for name, dtype in at.schema.items() if name != self._partition})
        if not len(files):
            return pl.LazyFrame(schema={**columns, FILE: pl.String()})
        for name in files["name"]:
            if name not in at.digests:
                raise corrupt(self._folder.place(name), "the table's digests do not name it")
        self._digests.verify({name: at.digests[name] for name in files["name"]})
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
        with one_writer(self._lock), told_storage_errors(self._folder.location):
            self._settle()
            versions = self._digests.versions()
            yield self._open(versions[-1]) if versions else None

    def _create(self, schema: pl.Schema, frames: Iterable[tuple[str, pl.DataFrame]]) -> int:
        """Make the table with its first rows, by partition; acknowledged on return."""
        actions, properties = self._written(None, frames, [], changes_data=True)
        create_table_with_add_actions(
            self._folder.location,
            Schema.from_arrow(schema),
            actions,
            partition_by=[self._partition],
            commit_properties=properties,
            post_commithook_properties=_HOOKS,
        )
        return self._secure(0, None)

    def _commit(
        self,
        at: Snapshot,
        frames: Iterable[tuple[str, pl.DataFrame]],
        replaced: pl.DataFrame | None = None,
        *,
        changes_data: bool = True,
    ) -> int:
        """Write frames, each into its partition, in place of some files, as one version; acknowledged on return."""
        stamp = int(self._now(at).timestamp() * 1000)
        removed = [
            RemoveAction(path, changes_data, stamp, size, {self._partition: part})
            for path, size, part in (at.files.clear() if replaced is None else replaced)
            .select("path", "bytes", "part")
            .iter_rows()
        ]
        added, properties = self._written(at, frames, removed, changes_data=changes_data)
        at.table.create_write_transaction(
            [*added, *removed],
            "append",
            at.table.schema(),
            [self._partition],
            commit_properties=properties,
            post_commithook_properties=_HOOKS,
        )
        return self._secure(at.version + 1, at.version)

    def _append(self, at: Snapshot | None, rows: pl.DataFrame) -> int:
        """Add rows, which have the partition's column, together with small files once a partition has many."""
        if at is None:  # perhaps years at once: one partition at a time is copied
            partition = pl.col(self._partition)
            parts = rows[self._partition].unique().sort()
            each = ((part, rows.filter(partition == part).drop(self._partition)) for part in parts)
            return self._create(rows.schema, each)
        months = rows.partition_by(self._partition, as_dict=True, include_key=False)
        frames = {str(key[0]): part for key, part in months.items()}
        small = at.small(frames, MANY_FILES)
        for part in small["part"].unique():
            known = self._rows(at, small.filter(pl.col("part") == part)).drop(FILE).collect()
            frames[part] = pl.concat([known, frames[part]], how="diagonal")
        return self._commit(at, frames.items(), small)

    def _extend(self, at: Snapshot, columns: pl.Schema) -> Snapshot:
        """Add those columns that the table does not have; they are null in all rows so far."""
        missing = pl.Schema({name: dtype for name, dtype in columns.items() if name not in at.schema})
        if not missing:
            return at
        fields = Schema.from_arrow(missing).fields
        return self._alter(
            at,
            lambda table, commit, hooks: table.alter.add_columns(
                fields, commit_properties=commit, post_commithook_properties=hooks
            ),
        )

    def _alter(
        self, at: Snapshot, change: Callable[[DeltaTable, CommitProperties, PostCommitHookProperties], None]
    ) -> Snapshot:
        """Change the table's columns or properties as one version; acknowledged on return."""
        _, properties = self._written(at, (), [], changes_data=False)
        change(at.table, properties, _HOOKS)
        return self._open(self._secure(at.version + 1, at.version))

    def _written(
        self,
        at: Snapshot | None,
        frames: Iterable[tuple[str, pl.DataFrame]],
        removed: list[RemoveAction],
        *,
        changes_data: bool,
    ) -> tuple[list[AddAction], CommitProperties]:
        """Bring data files to the disk; returns what the commit that names them has to say."""
        now = self._now(at)
        digests: dict[str, str] = {}
        added: list[AddAction] = []
        for part, frame in frames:
            name = f"{self._partition}={part}/{uuid4()}.parquet"
            buffer = io.BytesIO()
            # Read twice as fast as zstd, a quarter larger.
            self._arranged(frame).write_parquet(buffer, compression="snappy")
            content = buffer.getbuffer()
            self._folder.write(name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
            self._digests.remember(name, digests[name])
            message = json.dumps({"numRecords": len(frame)})
            modified = int(now.timestamp() * 1000)
            added.append(AddAction(name, len(content), {self._partition: part}, modified, changes_data, message))
        self._folder.flush([*sorted({name.split("/", 1)[0] for name in digests}), ""] if digests else [])
        metadata = commit_log.metadata(now, digests, len(added) + len(removed))
        return added, CommitProperties(custom_metadata=metadata)

    def _arranged(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows in the order in which a file keeps them."""
        return rows

    def _now(self, at: Snapshot | None) -> datetime:
        # A clock may be set back; the order of versions may not.
        now = self._clock.now()
        return now if at is None else max(now, self._recorded_at(at.version))

    def _secure(self, version: int, previous: int | None) -> int:
        """Bring a committed version to the disk and acknowledge it by its digests."""
        commit = self._log.commit(version)
        files = {name: commit.written.get(name) or self._digests.of(name) for name in commit.added}
        unflushed = sorted(commit.added.keys() - commit.written.keys())
        if previous is not None and version % _CHECKPOINT_EVERY == 0:
            DeltaTable(self._folder.location, version=version).create_checkpoint()
            self._folder.remove([commit_log.HINT])  # a file that changes has no digest; readers list the folder instead
        checkpoints = self._log.checkpoints().get(version, [])
        is_whole = previous is None or bool(checkpoints)
        if is_whole:
            known = files if previous is None else self._listed(previous) | files
            table = DeltaTable(self._folder.location, version=version)
            files = {name: known.get(name) or self._digests.of(name) for name in self._files(table)["name"]}
        if previous is None and self._folder.is_local:
            for folder in Path(self._folder.location).parents[:3]:  # a new table's: data set, lake, home
                flush(folder)
        log = commit_log.name_of(version)
        folders = {name.rpartition("/")[0] for name in unflushed}
        self._folder.flush([*unflushed, *sorted(folders), "", *checkpoints, log, commit_log.FOLDER])
        files |= {name: self._digests.of(name) for name in (*checkpoints, log)}
        self._digests.write(version, files, is_whole=is_whole)
        return version

    def _settle(self) -> None:
        """Take in versions whose writer died before it could acknowledge them; put the last aside if it is torn."""
        acknowledged = self._digests.versions()
        latest = max(acknowledged, default=None)
        versions, checkpoints, has_hint = self._log.listing()
        if latest is not None:
            # Made for a version that was not acknowledged: it may be torn, or belong to one that is gone.
            self._folder.remove([name for each in checkpoints if each > latest for name in checkpoints[each]])
        if has_hint:
            self._folder.remove([commit_log.HINT])
        # A table of an earlier release has no digests, and where its log begins is a checkpoint.
        first = min(checkpoints, default=0) if latest is None and 0 not in versions else 0
        tail = [each for each in versions if each > (first - 1 if latest is None else latest)]
        for version in tail:
            torn = self._log.tear(version, self._digests)
            if torn and version != tail[-1]:  # a later one was written after this one was on disk
                raise corrupt(self._folder.place(commit_log.name_of(version)), torn)
            if torn:
                self._put_aside(version, torn)
            else:
                latest = self._secure(version, latest)

    def _put_aside(self, version: int, torn: str) -> None:
        with suppress(ValueError):
            for name in self._log.commit(version).added:
                if self._folder.size(name) is not None:
                    self._folder.move(name, self._aside(name))
        # Last: until then the next one begins here again.
        self._folder.move(commit_log.name_of(version), self._aside(commit_log.name_of(version)))
        _messages.warning(
            'lake.torn_tail: version %d of "%s" was put aside in %s, %s; it was never acknowledged',
            version, self._folder.location, ASIDE, torn,
        )  # fmt: skip

    def _aside(self, name: str) -> str:
        return f"{ASIDE}/{self._clock.now():%Y%m%dT%H%M%SZ}-{name.rpartition('/')[2]}"


def beside(lake: Path | str, dataset: str, table: str) -> Path | str:
    """Return where a table of a data set lies, in a folder or below the URL of an object store."""
    return lake / dataset / table if isinstance(lake, Path) else f"{lake.rstrip('/')}/{dataset}/{table}"


def _not_kept(what: str) -> NotFoundError:
    return NotFoundError(
        "lake.not_kept", f"{what} is no longer kept", "maintenance removes what is older than its retention"
    )


def _refuse_unusable(location: Path | str) -> None:
    # Delta would take "%20" for a space and write elsewhere, and it dies of the others.
    found = sorted(_UNUSABLE.intersection(str(location)))
    if found:
        message = " ".join(character if character.isprintable() else repr(character) for character in found)
        raise ConfigError(
            "lake.unusable_path",
            f'no table can lie in "{str(location).rpartition("/")[0]}": the name has {message}',
            "rename the folders of the home, or move it",
        )
