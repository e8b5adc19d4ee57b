"""The folder of one table, on the local disk or in an object store, behind one interface."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from forecast.durability import flush

_HALF_WRITTEN: Final = ".tmp"


class Folder:
    """Files by their names relative to one folder; a folder that does not exist is empty.

    An object store is given by a URL such as ``s3://bucket/lake``. Its credentials come from the environment, where
    ``deltalake``, polars and fsspec all look for them. An object it has accepted is durable, so nothing is flushed.

    >>> Folder("memory://lake/load/observations").place("month=2024-01/a.parquet")
    'memory://lake/load/observations/month=2024-01/a.parquet'
    """

    def __init__(self, location: Path | str) -> None:
        self.is_local: Final = isinstance(location, Path)
        self.location: Final = str(location)
        self._files: Any = LocalFileSystem()
        self._root = self.location
        if not self.is_local:  # no listings cache: another process may have written a moment ago
            self._files, self._root = fsspec.url_to_fs(self.location, use_listings_cache=False)

    def place(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.location}/{name}"

    def names(self, subfolder: str) -> list[str]:
        """Return the sorted names of the entries of a subfolder, without half-written files."""
        try:
            found = self._files.ls(f"{self._root}/{subfolder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rsplit("/", 1)[1] for path in found if not path.endswith(_HALF_WRITTEN))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below the folder, by name."""
        found = self._files.find(self._root, detail=True)
        return {path[len(self._root) + 1 :]: info["size"] for path, info in found.items()}

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; ``None`` if it does not exist."""
        try:
            return int(self._files.size(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def stamp(self, name: str) -> str:
        """Return a stamp that changes with the file: from its size and time of writing, or the object's tag."""
        return str(self._files.ukey(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file's content, in hexadecimal digits."""
        with self._files.open(f"{self._root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file completely or not at all; flushes its content, but not the folder that lists it."""
        path = f"{self._root}/{name}"
        if not self.is_local:
            self._files.pipe_file(path, bytes(content))
            return
        half = Path(path + _HALF_WRITTEN)
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(content)
        flush(half)
        half.replace(path)

    def flush(self, names: Iterable[str]) -> None:
        """Flush files and folders to disk, in this order; ``""`` is the folder itself."""
        if self.is_local:
            for name in names:
                flush(Path(self._root, name))

    def move(self, name: str, target: str) -> None:
        """Move a file, and flush both folders."""
        self._files.makedirs(os.path.dirname(f"{self._root}/{target}"), exist_ok=True)  # noqa: PTH120 - may be a URL
        self._files.cp_file(f"{self._root}/{name}", f"{self._root}/{target}")
        self._files.rm_file(f"{self._root}/{name}")
        self.flush([target, *(str(Path(each).parent) for each in (target, name))])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, in this order."""
        for name in names:
            self._files.rm_file(f"{self._root}/{name}")
