"""Unpack gzip and zstd files, recognised by their first bytes, on disk up to a size limit."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from forecast.errors import DataError, first_line

_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK = 1 << 20


@contextlib.contextmanager
def unpacked(path: Path, name: str, limit: int | None) -> Iterator[Path]:
    """Yield a plain file as it is, or its unpacked content as a temporary file that lives as long as the context.

    Raises ``source.malformed`` if it is damaged or cut off, ``source.too_large`` beyond ``limit`` bytes.
    """
    with path.open("rb") as opened:
        head = opened.read(4)
    packing = next((packing for magic, packing in _PACKED.items() if head.startswith(magic)), None)
    if packing is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
        plain = Path(folder) / "unpacked"
        with plain.open("wb") as out:
            for chunk in _chunks(path, name, packing):
                out.write(chunk)
                if limit is not None and out.tell() > limit:
                    raise too_large(name, limit)
        yield plain


def too_large(name: str, limit: int) -> DataError:
    """Return the error for a file that exceeds the limit of the config file."""
    return DataError(
        "source.too_large", f'"{name}" is larger than {limit} bytes', "raise source.max_bytes if the size is intended"
    )


def plain_name(name: str) -> str:
    """Return a file's name without the suffix of its compression.

    >>> plain_name("readings.tsv.gz")
    'readings.tsv'
    """
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in {".gz", ".zst"} else path.name


def _chunks(path: Path, name: str, packing: str) -> Iterator[bytes]:
    try:
        with pa.input_stream(str(path), compression=packing) as packed:
            while chunk := packed.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise DataError(
            "source.malformed",
            f'"{name}" is truncated or damaged ({packing}: {first_line(error)})',
            "write it again or restore it from a backup",
        ) from error
