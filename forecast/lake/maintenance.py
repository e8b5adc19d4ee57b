"""Maintenance of a table: find damaged files, compact small ones, remove expired versions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from forecast.errors import ForecastError
from forecast.lake import commit_log
from forecast.lake.acknowledgement import ASIDE
from forecast.lake.checksums import FOLDER as DIGESTS
from forecast.lake.checksums import corrupt
from forecast.lake.checksums import name_of as digests_of
from forecast.lake.locks import one_writer, translated_storage_errors
from forecast.lake.table import FILE, Snapshot, VersionedTable


@dataclass(frozen=True, slots=True)
class Damage:
    """A problem found by :meth:`Table.check`."""

    code: str
    """``lake.corrupt``: the file must not be read. ``lake.torn_tail``: an unacknowledged file that was moved aside."""
    message: str
    """The file, what is wrong with it, and the remedy."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of checking a whole table."""

    versions: int
    files: int
    damages: tuple[Damage, ...]

    def __add__(self, other: Checked) -> Checked:
        return Checked(self.versions + other.versions, self.files + other.files, self.damages + other.damages)


@dataclass(frozen=True, slots=True)
class Maintained:
    """Result of a maintenance: the data files before and after."""

    files_before: int
    files_after: int
    bytes_freed: int


class Table(VersionedTable):
    """A table that can be checked and maintained."""

    def check(self) -> Checked:
        """Read every file and compare it with its checksum; also list files that were moved aside."""
        damages: list[Damage] = []
        files: dict[str, str] = {}
        with one_writer(self._lock), translated_storage_errors(self._folder.location):
            with _collecting(damages):
                self._acknowledgement.recover()
            versions = self._digests.versions()
            for version in versions:
                with _collecting(damages):
                    files |= self._digests.read(version).files
            for name, reason in self._digests.damaged(files, anew=True):
                with _collecting(damages):
                    raise corrupt(self._folder.place(name), reason)
            if versions and not damages:
                with _collecting(damages):
                    self._open(versions[-1])
            for name in self._folder.names(ASIDE):
                place = self._folder.place(f"{ASIDE}/{name}")
                damages.append(Damage("lake.torn_tail", f'"{place}" was never acknowledged; remove it after a look'))
        return Checked(len(versions), len(files) + len(versions), tuple(damages))

    def maintain(self, retention: timedelta, now: datetime) -> Maintained:
        """Compact small files, and remove the versions that were replaced before ``now - retention``.

        Removes each file that no remaining version needs. Safe to kill at any moment and to run again. The removed
        versions can no longer be read.
        """
        with self._writing() as snapshot:
            before = self._data_files()
            if snapshot is not None:
                self._compact(snapshot)
                self._remove_before(now - retention)
            after = self._data_files()
        return Maintained(len(before), len(after), sum(before.values()) - sum(after.values()))

    def _data_files(self) -> dict[str, int]:
        sizes = self._folder.sizes()
        return {name: size for name, size in sizes.items() if name.startswith(f"{self._partition}=")}

    def _compact(self, snapshot: Snapshot) -> None:
        small = snapshot.small(snapshot.files["part"], 2)
        if len(small):
            by_part = small.partition_by("part", as_dict=True).items()
            frames = ((str(key[0]), self._rows(snapshot, files).drop(FILE).collect()) for key, files in by_part)
            self._commit(snapshot, frames, small, changes_data=False)

    def _remove_before(self, time: datetime) -> None:
        """Remove the versions that a newer one had replaced by ``time``, and every file that no other version needs."""
        versions = self._digests.versions()
        first = versions[max(bisect_right(versions, time, key=self._recorded_at) - 1, 0)]
        if first != versions[0]:
            snapshot = self._open(first)
            needed = [*commit_log.in_log(snapshot.digests), *snapshot.files["name"]]
            self._digests.write(first, {name: snapshot.digests[name] for name in needed}, is_whole=True)
            # Newest first: after a crash the older ones still lead back to a whole listing.
            self._folder.remove([digests_of(version) for version in reversed(versions) if version < first])
            self._folder.flush([DIGESTS])
        kept = {name for version in self._digests.versions() for name in self._digests.read(version).files}
        ours = (f"{self._partition}=", f"{commit_log.FOLDER}/")
        self._folder.remove([name for name in self._folder.sizes() if name.startswith(ours) and name not in kept])


@contextmanager
def _collecting(damages: list[Damage]) -> Iterator[None]:
    try:
        yield
    except ForecastError as error:
        damages.append(Damage(error.code, str(error)))
