"""The folder of one table, on this machine's disk or in an object store, through one set of verbs."""

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
    """Files by their names relative to one folder; a folder that is not there yet has none.

    An object store is told by a URL such as ``s3://bucket/lake``; its credentials come from the environment, where
    ``deltalake``, polars and fsspec all look for them. What it has accepted is durable, so nothing is flushed there.
    """

    def __init__(self, location: Path | str) -> None:
        self.is_local: Final = isinstance(location, Path)
        self.location: Final = str(location)
        self._files: Any = LocalFileSystem()
        self._root = self.location
        if not self.is_local:  # looked up anew each time: another process may have written a moment ago
            self._files, self._root = fsspec.url_to_fs(self.location, use_listings_cache=False)

    def place(self, name: str) -> str:
        """Return the path or URL of a file."""
        return f"{self.location}/{name}"

    def names(self, subfolder: str) -> list[str]:
        """Return the sorted names, without the subfolder's, of what lies in a subfolder."""
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
        """Return the bytes of a file; ``None`` if it is not there."""
        try:
            return int(self._files.size(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def stamp(self, name: str) -> str:
        """Return what changes when a file does: size, time of writing, and the like."""
        return str(self._files.ukey(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file's content, in hexadecimal digits."""
        with self._files.open(f"{self._root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file whole or not at all; on a disk, its content is flushed but not yet the folder that names it."""
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
        """Bring files, and folders by the names in them, to the disk, in this order; ``""`` is the folder itself."""
        if self.is_local:
            for name in names:
                flush(Path(self._root, name))

    def move(self, name: str, target: str) -> None:
        """Move a file; the folders of both are flushed."""
        self._files.makedirs(os.path.dirname(f"{self._root}/{target}"), exist_ok=True)  # noqa: PTH120 - may be a URL
        self._files.cp_file(f"{self._root}/{name}", f"{self._root}/{target}")
        self._files.rm_file(f"{self._root}/{name}")
        self.flush([target, *(str(Path(each).parent) for each in (target, name))])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, in this order."""
        for name in names:
            self._files.rm_file(f"{self._root}/{name}")
