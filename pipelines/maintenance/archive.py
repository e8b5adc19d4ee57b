"""A backup is one tar file that ends with a manifest of its files' SHA-256; it gets its name only when it is complete.

``manifest.json`` is the manifest; ``manifest.sha256`` has its digest in the format of ``sha256sum -c``.
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
    """Contents of a backup."""

    format: Literal[1] = 1
    release: str
    made_at: datetime
    """Start of the copy of the ledger: every earlier record is in the backup."""
    home: str
    """Path of the home; MLflow stores absolute paths of its artifacts."""
    tables: dict[str, int]
    """Latest version of each table of the lake, by ``data set/table``."""
    left_out: tuple[str, ...] = ()
    """Codes of the parts that are stored elsewhere and need a backup of their own."""
    files: dict[str, str]
    """SHA-256 of each file, by its path in the home."""


class Writer:
    """Adds files to an archive and records their digests."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.files: dict[str, str] = {}

    def add(self, name: str, path: Path, expected: str | None = None) -> None:
        """Add a file; raises ``lake.corrupt`` if its digest is not ``expected``."""
        with path.open("rb") as stream:
            about = os.fstat(stream.fileno())
            info = tarfile.TarInfo(name)
            info.size, info.mtime = about.st_size, int(about.st_mtime)
            digest = self._put(info, stream)
        if expected not in {None, digest}:
            raise StorageError(
                "lake.corrupt",
                f'"{name}" is damaged: its SHA-256 does not match the recorded one',
                "restore it from an earlier backup; a damaged file is never added to a backup",
            )

    def add_content(self, name: str, content: bytes) -> None:
        """Add a small file from memory."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._put(info, io.BytesIO(content))

    def finish(self, manifest: BackupManifest) -> None:
        """Write the manifest; an archive without one is not a valid backup."""
        content = manifest.model_dump_json(indent=1).encode()
        self.add_content(MANIFEST, content)
        self.add_content(_OWN_DIGEST, f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode())

    def _put(self, info: tarfile.TarInfo, stream: IO[bytes]) -> str:
        reader = _Reader(stream)
        self._tar.addfile(info, reader)
        self.files[info.name] = reader.digest
        return reader.digest


class _Reader(io.RawIOBase):
    """Stream that computes the SHA-256 of the bytes read."""

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
def written(path: Path, owner: str) -> Iterator[Writer]:
    """Write an archive under a temporary name in the same folder, flush it to disk, then rename it to ``path``.

    The temporary name follows from ``owner``, so the next backup overwrites the leftovers of a killed one. Only the
    user may read the file. Raises ``backup.exists`` instead of overwriting an archive, and ``backup.failed`` on disk
    errors.
    """
    if path.exists():
        raise ConflictError("backup.exists", f'file "{path}" already exists', "choose another name")
    partial = path.with_name(f".forecast-{hashlib.sha256(owner.encode()).hexdigest()[:16]}.tmp")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600, exist_ok=False)
        with partial.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield Writer(tar)
        flush(partial)
        partial.rename(path)
        flush(path.parent)
    except OSError as error:
        message = f'the backup "{path}" was not written ({error.strerror or first_line(error)})'
        raise StorageError("backup.failed", message, "check the folder, its disk and permissions") from error
    finally:
        partial.unlink(missing_ok=True)


def read_manifest(path: Path) -> BackupManifest:
    """Return the manifest of an archive; raises ``backup.not_found``, ``backup.other_format``, ``backup.damaged``."""
    with _translated_errors(path), tarfile.open(path, "r:") as tar:
        content = _content(tar, path, MANIFEST)
        if hashlib.sha256(content).hexdigest().encode() != _content(tar, path, _OWN_DIGEST)[:64]:
            raise damaged(path, "its manifest does not match its SHA-256")
    if b'"format": 1,' not in content:
        raise StorageError(
            "backup.other_format", f'"{path}" was written by a later release', "restore it with that release"
        )
    try:
        manifest = BackupManifest.model_validate_json(content)
    except ValidationError as error:
        raise damaged(path, "its manifest is invalid") from error
    if not all(_is_inside(name) for name in manifest.files):
        raise damaged(path, "its manifest names a file outside the home")
    return manifest


def unpack(path: Path, files: Mapping[str, str], folder: Path) -> None:
    """Extract the files of the manifest to a folder, flush each to disk and verify its digest.

    Other members of the archive are ignored. Raises ``backup.damaged``.
    """
    missing = dict(files)
    with _translated_errors(path), tarfile.open(path, "r:") as tar:
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
                raise damaged(path, f'the SHA-256 of "{info.name}" does not match the manifest')
            flush(target)
    if missing:
        raise damaged(path, f'"{min(missing)}" is missing')


def damaged(path: Path, reason: str) -> StorageError:
    """Return the error for an archive that must not be restored."""
    return StorageError("backup.damaged", f'backup "{path}" is damaged: {reason}', "restore another one")


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
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if path.exists():
            raise
        raise NotFoundError("backup.not_found", f'file "{path}" does not exist', "give the path of a backup") from error
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise damaged(path, first_line(error)) from error
    except OSError as error:
        message = f'backup "{path}" cannot be extracted ({error.strerror or first_line(error)})'
        raise StorageError("restore.failed", message, "check disk, space and permissions") from error
