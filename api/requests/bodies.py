"""Reading what a client sends: never more than a cap, also after decompression."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from anyio.to_thread import run_sync
from fastapi import Request

from forecast.errors import ForecastError

LARGEST = 64 * 2**20
"""Bytes of a body, compressed or not, unless the service's limits say otherwise."""
_ENCODINGS = ("identity", "gzip", "zstd")
_PIECE = 2**20


class TooLargeError(ForecastError):
    """A body is larger than the service takes."""


class SlowBodyError(ForecastError):
    """A body takes longer to arrive than the service waits."""


class UnsupportedError(ForecastError):
    """A body is of a kind that the service does not read."""


async def read_body(request: Request, largest: int | None = None) -> bytes:
    """Read a body as it comes, decompressed if it is gzip or zstd; refused as soon as it is too large.

    Raises ``body.too_large``, ``body.encoding``, and what :class:`Inbound` raises, which has the deadline.
    """
    if largest is None:
        largest = getattr(getattr(request.app.state, "limits", None), "max_body", LARGEST)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedError("body.encoding", "the body is compressed in a way that is not known", "send gzip")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > largest:
        raise too_large(largest)
    pieces: list[bytes] = []
    size = 0
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    async for chunk in request.stream():
        piece = chunk if inflate is None else _inflated(inflate, chunk, largest - size)
        size += len(piece)
        if size > largest:
            raise too_large(largest)
        pieces.append(piece)
    if inflate is not None and (not inflate.eof or inflate.unused_data):
        raise UnsupportedError("body.encoding", "the body is not one whole gzip", "compress it again")
    whole = b"".join(pieces)
    return await run_sync(_unpacked, whole, largest) if encoding == "zstd" else whole


def too_large(largest: int) -> TooLargeError:
    """Return the refusal of a body that has more bytes than that."""
    return TooLargeError(
        "body.too_large", f"a body may have {largest // 2**20} MiB", "send the rows in several requests"
    )


def too_slow(seconds: float) -> SlowBodyError:
    """Return the refusal of a body that was not there in time."""
    return SlowBodyError("body.too_slow", f"the body took longer than {seconds:g} s to arrive", "send less at once")


def _inflated(inflate: zlib._Decompress, chunk: bytes, left: int) -> bytes:
    try:
        return inflate.decompress(chunk, left + 1)  # one more than fits shows that it does not
    except zlib.error as error:
        raise UnsupportedError(
            "body.encoding", "the body is not gzip", "compress it again, or send it as it is"
        ) from error


def _unpacked(packed: bytes, largest: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in _zstd_pieces(packed):
        size += len(piece)
        if size > largest:
            raise too_large(largest)
        pieces.append(piece)
    return b"".join(pieces)


def _zstd_pieces(packed: bytes) -> Iterator[bytes]:
    """Unpack piece by piece: what the frame says of its own size is not believed."""
    import pyarrow as pa  # only those who send zstd wait for it

    try:
        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (OSError, pa.ArrowException) as error:
        raise UnsupportedError(
            "body.encoding", "the body is not one whole zstd", "compress it again, or send it as it is"
        ) from error
