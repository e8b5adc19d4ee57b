"""Rows from Arrow IPC, as a file or a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from pipelines.sources.batch import Content

_FILE = b"ARROW1"


def read_arrow(content: Content, config: DatasetConfig) -> pl.DataFrame:  # noqa: ARG001  # every format takes the config
    """Read an Arrow IPC file (also called Feather) or stream."""
    with reading(content, "Arrow IPC") as opened:
        reader = pa.ipc.open_file(opened) if content.starts_with(_FILE) else pa.ipc.open_stream(opened)
        table = reader.read_all()
        table.validate(full=True)  # otherwise damaged offsets read memory out of bounds
        return pl.DataFrame(pl.from_arrow(table))


@contextlib.contextmanager
def reading(content: Content, kind: str) -> Iterator[pa.NativeFile]:
    """Open a content for pyarrow; reading errors raise ``source.malformed``.

    pyarrow, because polars' own readers of these formats abort the whole process on some damaged files.
    """
    opened = pa.BufferReader(content.data) if isinstance(content.data, bytes) else pa.OSFile(str(content.data))
    try:
        with opened:
            yield opened
    except (
        pa.ArrowException,
        OSError,
        UnicodeDecodeError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise DataError(
            "source.malformed",
            f'"{content.name}" is not readable {kind}{content.because(error)}',
            "write it again or restore it from a backup",
        ) from error
