"""Acknowledge committed versions of a table, and recover the versions whose writer died before that.

A version is acknowledged once its file of checksums is on disk; readers ignore every other version. Acknowledging
flushes the commit, makes a checkpoint when one is due, and writes the checksums last. A crash before the last step
leaves an unacknowledged tail. The next writer acknowledges the tail if it is complete. If a power cut has torn it, the
writer moves it to the folder ``_quarantine`` of the table.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable

from forecast.clock import Clock
from forecast.durability import flush
from forecast.lake import commit_log
from forecast.lake.checksums import Digests, corrupt
from forecast.lake.commit_log import DeltaLog
from forecast.lake.storage import Folder

ASIDE: Final = "_quarantine"
"""Folder inside a table's folder for files that a power cut has torn."""
_CHECKPOINT_EVERY = 20

_logger = logging.getLogger(__name__)


class Acknowledgement:
    """Brings versions of one table to disk, and recovers its tail; the caller holds the table's lock."""

    def __init__(self, folder: Folder, digests: Digests, log: DeltaLog, clock: Clock) -> None:
        self._folder = folder
        self._digests = digests
        self._log = log
        self._clock = clock

    def acknowledge(self, version: int, previous: int | None) -> int:
        """Bring a committed version to disk and write its checksums; ``previous`` is ``None`` for a new table."""
        commit = self._log.commit(version)
        files = {name: commit.written.get(name) or self._digests.of(name) for name in commit.added}
        unflushed = sorted(commit.added.keys() - commit.written.keys())
        if previous is not None and version % _CHECKPOINT_EVERY == 0:
            DeltaTable(self._folder.location, version=version).create_checkpoint()
            self._folder.remove([commit_log.HINT])  # a file that changes has no digest; readers list the folder instead
        checkpoints = self._log.checkpoints().get(version, [])
        is_whole = previous is None or bool(checkpoints)
        if is_whole:
            known = files if previous is None else self._digests.up_to(previous) | files
            names = _data_files(DeltaTable(self._folder.location, version=version))
            files = {name: known.get(name) or self._digests.of(name) for name in names}
        if previous is None and self._folder.is_local:
            for folder in Path(self._folder.location).parents[:3]:  # a new table's: data set, lake, home
                flush(folder)
        log = commit_log.name_of(version)
        folders = {name.rpartition("/")[0] for name in unflushed}
        self._folder.flush([*unflushed, *sorted(folders), "", *checkpoints, log, commit_log.FOLDER])
        files |= {name: self._digests.of(name) for name in (*checkpoints, log)}
        self._digests.write(version, files, is_whole=is_whole)
        return version

    def recover(self) -> None:
        """Acknowledge the versions of a writer that died before it could; move the last one aside if it is torn.

        Raises ``lake.corrupt`` if a torn version is followed by another one.
        """
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
                self._move_aside(version, torn)
            else:
                latest = self.acknowledge(version, latest)

    def _move_aside(self, version: int, torn: str) -> None:
        with suppress(ValueError):
            for name in self._log.commit(version).added:
                if self._folder.size(name) is not None:
                    self._folder.move(name, self._aside(name))
        # The log last: if this process dies here too, the next writer finds the torn version again.
        self._folder.move(commit_log.name_of(version), self._aside(commit_log.name_of(version)))
        _logger.warning(
            'lake.torn_tail: version %d of "%s" was moved to %s: %s; it was never acknowledged',
            version, self._folder.location, ASIDE, torn,
        )  # fmt: skip

    def _aside(self, name: str) -> str:
        return f"{ASIDE}/{self._clock.now():%Y%m%dT%H%M%SZ}-{name.rpartition('/')[2]}"


def _data_files(table: DeltaTable) -> list[str]:
    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    return [unquote(path) for path in actions["path"]] if len(actions) else []  # the log escapes folders' names
