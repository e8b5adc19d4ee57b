"""A backup as one tar file: its members, and at its end a manifest of their SHA-256; whole under its name or not there.

``manifest.json`` is the manifest, ``manifest.sha256`` its own digest, in the form that ``sha256sum -c`` reads.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pydantic import ValidationError

from forecast.durability import flush
from forecast.errors import ConflictError, NotFoundError, StorageError, first_line
from forecast.strict import StrictModel

MANIFEST = "manifest.json"
_OWN_DIGEST = "manifest.sha256"
_BLOCK = 2**20


class BackupManifest(StrictModel):
    """What a backup holds."""

    format: Literal[1] = 1
    release: str
    made_at: datetime
    """When the copy of the ledger was begun: nothing that was recorded before is missing."""
    home: str
    """Where the home lay; MLflow keeps the places of its artifacts as whole paths."""
    tables: dict[str, int]
    """Latest version of each table of the lake, by ``data set/table``."""
    left_out: tuple[str, ...] = ()
    """Codes of what lies elsewhere and must be saved by its own means."""
    files: dict[str, str]
    """SHA-256 of each file, by its name in the home."""


class Writer:
    """An archive that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, str] = {}

    def add(self, name: str, path: Path, expected: str | None = None) -> None:
        """Copy a file; raises ``lake.corrupt`` if its digest is not the one that is expected."""
        with path.open("rb") as stream:
            about = os.fstat(stream.fileno())
            info = tarfile.TarInfo(name)
            info.size, info.mtime = about.st_size, int(about.st_mtime)
            digest = self._put(info, stream)
        if expected not in {None, digest}:
            raise StorageError(
                "lake.corrupt",
                f'"{name}" is damaged: its SHA-256 is not the one it was written with',
                "put it back from an earlier backup; what is damaged is not backed up as if it were whole",
            )

    def add_content(self, name: str, content: bytes) -> None:
        """Write a file that is small enough to be held."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._put(info, io.BytesIO(content))

    def finish(self, manifest: BackupManifest) -> None:
        """Write the manifest, without which nobody takes the archive for a backup."""
        content = manifest.model_dump_json(indent=1).encode()
        self.add_content(MANIFEST, content)
        self.add_content(_OWN_DIGEST, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode())

    def _put(self, info: tarfile.TarInfo, stream: IO[bytes]) -> str:
        reader = _Reader(stream)
        self._tar.addfile(info, reader)
        self.files[info.name] = reader.digest
        return reader.digest


class _Reader(io.RawIOBase):
    """A stream whose digest is known once it was read."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        content = self._stream.read(size)
        self._sha256.update(content)
        return content

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


@contextmanager
def written(path: Path, whose: str) -> Iterator[Writer]:
    """Write an archive under a temporary name beside its own, bring it to the disk, and only then call it so.

    One at a time for each ``whose``: what one that was killed has left is written over. Only the user may read it.
    Raises ``backup.exists`` rather than write over an archive, and ``backup.failed`` if the disk says no.
    """
    if path.exists():
        raise ConflictError("backup.exists", f'there is a file "{path}" already', "choose another name")
    half = path.with_name(f".forecast-{hashlib.sha256(whose.encode()).hexdigest()[:16]}.tmp")
    try:
        half.unlink(missing_ok=True)
        half.touch(mode=0o600, exist_ok=False)
        with half.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield Writer(tar)
        flush(half)
        half.rename(path)
        flush(path.parent)
    except OSError as error:
        message = f'the backup "{path}" was not written ({error.strerror or first_line(error)})'
        raise StorageError("backup.failed", message, "check the folder, its disk and permissions") from error
    finally:
        half.unlink(missing_ok=True)


def read_manifest(path: Path) -> BackupManifest:
    """Return the manifest of an archive; raises ``backup.not_found``, ``backup.other_format``, ``backup.damaged``."""
    with _told_damage(path), tarfile.open(path, "r:") as tar:
        content = _content(tar, path, MANIFEST)
        if hashlib.sha256(content).hexdigest().encode() != _content(tar, path, _OWN_DIGEST)[:64]:
            raise damaged(path, "the manifest's SHA-256 is not its own")
    if b'"format": 1,' not in content:
        raise StorageError(
            "backup.other_format", f'"{path}" was made by a later release', "restore it with that release"
        )
    try:
        manifest = BackupManifest.model_validate_json(content)
    except ValidationError as error:
        raise damaged(path, "its manifest is not one") from error
    if not all(_is_inside(name) for name in manifest.files):
        raise damaged(path, "it names a file outside the home")
    return manifest


def unpack(path: Path, files: Mapping[str, str], folder: Path) -> None:
    """Write the files that a manifest names into a folder, each on disk and compared with its digest.

    Whatever else an archive holds is not looked at. Raises ``backup.damaged``.
    """
    missing = dict(files)
    with _told_damage(path), tarfile.open(path, "r:") as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.name in missing and info.isreg() else None
            if stream is None:
                continue
            target = folder / info.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                reader = _Reader(stream)
                while block := reader.read(_BLOCK):
                    out.write(block)
            if reader.digest != missing.pop(info.name):
                raise damaged(path, f'the SHA-256 of "{info.name}" is not the one it was written with')
            flush(target)
    if missing:
        raise damaged(path, f'"{min(missing)}" is missing')


def damaged(path: Path, reason: str) -> StorageError:
    """Return the error for an archive that must not be restored."""
    return StorageError("backup.damaged", f'"{path}" is not a whole backup: {reason}', "restore another one")


def _content(tar: tarfile.TarFile, path: Path, name: str) -> bytes:
    try:
        stream = tar.extractfile(name)
    except KeyError:
        stream = None
    if stream is None:
        raise damaged(path, f'it has no "{name}"')
    return stream.read()


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name


@contextmanager
def _told_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if path.exists():
            raise
        raise NotFoundError("backup.not_found", f'there is no file "{path}"', "name a backup") from error
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise damaged(path, first_line(error)) from error
    except OSError as error:
        message = f'the backup "{path}" cannot be read or written out ({error.strerror or first_line(error)})'
        raise StorageError("restore.failed", message, "check disk, space and permissions") from error
