"""The SHA-256 of every file of a table: one file of checksums per version, readable by ``sha256sum -c``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from forecast.errors import StorageError
from forecast.lake.storage import Folder

FOLDER: Final = "_digests"
_WHOLE = "# every file of this version"
_OWN = "# sha256 of the lines above: "
_THREADS: Final = 8

# Files that this process has found intact: stamp and digest by place. A file whose stamp has changed is read again.
_INTACT: dict[str, tuple[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Listing:
    """The content of one version's file of checksums."""

    files: Mapping[str, str]
    """SHA-256 by name: of all files of the version if ``is_whole``, else of those that it added."""
    is_whole: bool


class Digests:
    """The checksums of one table's files."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def versions(self) -> list[int]:
        """Return the versions that have checksums, that is, the acknowledged ones, in order."""
        stems = (name.removesuffix(".sha256") for name in self._folder.names(FOLDER))
        return [int(stem) for stem in stems if stem.isdecimal()]

    def write(self, version: int, files: Mapping[str, str], *, is_whole: bool) -> None:
        """Write a version's checksums; durable on return."""
        lines = [_WHOLE] if is_whole else []
        lines += [f"{digest}  {name}" for name, digest in sorted(files.items())]
        text = "".join(f"{line}\n" for line in lines)
        own = hashlib.sha256(text.encode()).hexdigest()
        self._folder.write(name_of(version), f"{text}{_OWN}{own}\n".encode())
        self._folder.flush([FOLDER, ""])

    def read(self, version: int) -> Listing:
        """Return a version's checksums; raises ``lake.corrupt`` if their file is missing or has changed."""
        name = name_of(version)
        try:
            content = self._folder.read(name)
        except FileNotFoundError as error:
            raise corrupt(self._folder.place(name), "it is missing") from error
        text, _, own = content.rpartition(_OWN.encode())
        if own != f"{hashlib.sha256(text).hexdigest()}\n".encode():
            raise corrupt(self._folder.place(name), "its content does not match its own checksum")
        lines = text.decode().splitlines()
        pairs = (line.split("  ", 1) for line in lines if not line.startswith("#"))
        return Listing({name: digest for digest, name in pairs}, _WHOLE in lines)

    def up_to(self, version: int) -> dict[str, str]:
        """Return the digests of all files of a version, and of some that it no longer has."""
        files: dict[str, str] = {}
        for each in range(version, -1, -1):
            listing = self.read(each)
            files = {**listing.files, **files}
            if listing.is_whole:
                break
        return files

    def of(self, name: str) -> str:
        """Compute a file's digest."""
        stamp = self._folder.stamp(name)
        digest = self._folder.digest(name)
        self.remember(name, digest, stamp)
        return digest

    def remember(self, name: str, digest: str, stamp: str = "") -> None:
        """Record that a file is intact: it was just written, or just read."""
        _INTACT[self._folder.place(name)] = (stamp or self._folder.stamp(name), digest)

    def verify(self, files: Mapping[str, str]) -> None:
        """Compare files with their checksums, once per process; raises ``lake.corrupt`` for one that differs."""
        for name, reason in self.damaged(files):
            raise corrupt(self._folder.place(name), reason)

    def damaged(self, files: Mapping[str, str], *, anew: bool = False) -> Iterable[tuple[str, str]]:
        """Return name and reason of each damaged file; ``anew`` also reads the files that were found intact before."""
        unknown = {name: digest for name, digest in files.items() if anew or not self._is_intact(name, digest)}
        # hashlib and reading release the interpreter's lock, so threads run in parallel.
        with ThreadPoolExecutor(_THREADS) as pool:
            reasons = list(pool.map(lambda item: self._damage(*item), unknown.items()))
        return [(name, reason) for name, reason in zip(unknown, reasons, strict=True) if reason]

    def _is_intact(self, name: str, digest: str) -> bool:
        known = _INTACT.get(self._folder.place(name))
        with suppress(FileNotFoundError):
            return known is not None and known[1] == digest and self._folder.stamp(name) == known[0]
        return False

    def _damage(self, name: str, digest: str) -> str:
        try:
            return "" if self.of(name) == digest else "its SHA-256 has changed since it was written"
        except FileNotFoundError:
            return "it is missing"


def name_of(version: int) -> str:
    """Return the name of a version's file of checksums."""
    return f"{FOLDER}/{version:020d}.sha256"


def corrupt(place: str, reason: str) -> StorageError:
    """Return the error for a damaged file."""
    return StorageError(
        "lake.corrupt",
        f'"{place}" is damaged: {reason}',
        'restore this file from a backup of the home; run "forecast maintain" to find others',
    )
