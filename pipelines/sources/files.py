"""Files of any format: a file, a folder, a glob or an address; compressed or not."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

import data
from forecast.config.dataset import DatasetConfig
from forecast.config.sources import FilesSource
from forecast.errors import ForecastError, NotFoundError, StorageError, nearest
from pipelines.sources.batch import Batch, Content, Unreadable
from pipelines.sources.compression import unpacked
from pipelines.sources.remote import at_address

Format = Callable[[Content, DatasetConfig], pl.DataFrame]
"""Reads all rows unchanged; columns that the config does not use may be left out."""

_TEMPORARY = (".tmp", ".part")


def files(read: Format) -> Callable[[str, DatasetConfig, Path, str | None], Iterator[Batch | Unreadable]]:
    """Return the source that reads files of a format one by one, in the order of their names."""

    def source(dataset: str, config: DatasetConfig, base: Path, cursor: str | None) -> Iterator[Batch | Unreadable]:  # noqa: ARG001  # files are always read whole
        place = config.source
        if not isinstance(place, FilesSource):
            raise TypeError(place)
        for name, there in at_address(place, is_skipped) if place.is_address else _on_disk(place, base):
            try:
                with there as path:
                    batch = read_file(path, read, dataset, config, name)
            except ForecastError as error:
                if not place.is_many:
                    raise
                yield Unreadable(name, error)
            else:
                yield batch

    return source


def read_file(path: Path, read: Format, dataset: str, config: DatasetConfig, name: str) -> Batch:
    """Read one file on disk; a compressed file is unpacked first."""
    limit = config.source.max_bytes if isinstance(config.source, FilesSource) else None
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        with unpacked(path, name, limit) as plain:
            return Batch.of(read(Content(name, plain), config), dataset, config, name, digest)
    except OSError as error:
        raise StorageError(
            "source.unreadable", f'cannot read "{path}" ({error.strerror or error})', "check its permissions"
        ) from error


def is_skipped(name: str) -> bool:
    """Whether a file is hidden or still being written; folders and globs skip such files."""
    return name.startswith(".") or name.lower().endswith(_TEMPORARY)


def _on_disk(place: FilesSource, base: Path) -> Iterator[tuple[str, contextlib.AbstractContextManager[Path]]]:
    for path in _located(place, base):
        inside = place.is_many and path.is_relative_to(base)
        yield path.relative_to(base).as_posix() if inside else path.name, contextlib.nullcontext(path)


def _located(place: FilesSource, base: Path) -> list[Path]:
    if place.path.startswith("sample:"):
        return [_sample(place.path.removeprefix("sample:"))]
    given = os.path.expanduser(place.path)  # noqa: PTH111  # pathlib's raises for a user that does not exist
    if place.is_many:
        pattern = given + "*" * given.endswith("/")
        found = (base / one for one in glob.glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207  # nor may its be absolute
        several = sorted(one for one in found if one.is_file() and not is_skipped(one.name))
        if not several:
            raise NotFoundError(
                "source.no_files", f'no file matches "{pattern}"', "correct source.path in the config file"
            )
        return several
    path = (base / given).absolute()
    if not path.exists():
        raise NotFoundError(
            "source.not_found", f'the source "{path}" does not exist', "correct source.path in the config file"
        )
    if path.is_dir():
        raise NotFoundError(
            "source.is_a_folder", f'the source "{path}" is a folder', f'write "{place.path}/" to read every file in it'
        )
    return [path]


def _sample(name: str) -> Path:
    found = Path(data.__file__).parent / f"{name}.parquet"
    if not found.is_file():
        samples = [file.stem for file in found.parent.glob("*.parquet")]
        raise NotFoundError("source.unknown_sample", f'the sample "{name}" does not exist', nearest(name, samples))
    return found
