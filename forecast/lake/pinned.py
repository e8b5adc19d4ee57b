"""Pin the files of a table by hard links, so that a backup can copy them while writers go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from forecast.errors import StorageError
from forecast.lake.checksums import Digests
from forecast.lake.checksums import name_of as digests_of
from forecast.lake.locks import one_writer, translated_storage_errors
from forecast.lake.storage import Folder


@dataclass(frozen=True, slots=True)
class Pinned:
    """The files of every version that a table had at one moment."""

    version: int
    folder: Path
    files: Mapping[str, str | None]
    """SHA-256 by name; ``None`` for the files of checksums, which contain their own."""


def pin(table: Path, lock: Path, folder: Path) -> Pinned | None:
    """Hard-link every file of a table's versions into a folder of the same disk; ``None`` if the table is empty.

    Writers wait only while the links are made: a table's files never change, and a file that maintenance removes later
    stays under its second name. An unacknowledged tail is left out. On a disk without hard links the files are copied,
    and the writers wait for that.

    Raises ``lake.corrupt`` if a file is missing.
    """
    digests = Digests(Folder(table))
    with one_writer(lock), translated_storage_errors(str(table)):
        versions = digests.versions()
        if not versions:
            return None
        files: dict[str, str | None] = {digests_of(version): None for version in versions}
        for version in versions:
            files |= digests.read(version).files
        for name in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(table / name, target)
    return Pinned(versions[-1], folder, files)


def _link(source: Path, target: Path) -> None:
    if not source.exists():
        raise StorageError(
            "lake.corrupt", f'"{source}" is damaged: it is missing', "restore this file from a backup of the home"
        )
    with suppress(OSError):  # another disk, or one without hard links
        os.link(source, target)
        return
    shutil.copyfile(source, target)
