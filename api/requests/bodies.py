"""Read request bodies up to a size limit that also holds after decompression."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from anyio.to_thread import run_sync
from fastapi import Request

from api.errors.kinds import UnsupportedError, too_large

LARGEST = 64 * 2**20
"""Bytes of a body, compressed or not, unless the service's limits say otherwise."""
_ENCODINGS = ("identity", "gzip", "zstd")
_PIECE = 2**20


async def read_body(request: Request, largest: int | None = None) -> bytes:
    """Read a body and decompress gzip or zstd; stop as soon as it exceeds the limit.

    Raises ``body.too_large``, ``body.encoding``, and ``body.too_slow`` from
    :class:`~api.requests.body_limit.LimitedBody`, which has the deadline.
    """
    if largest is None:
        largest = getattr(getattr(request.app.state, "limits", None), "max_body", LARGEST)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedError("body.encoding", "the body's Content-Encoding is not supported", "send gzip")
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
        raise UnsupportedError("body.encoding", "the body is not one complete gzip stream", "compress it again")
    whole = b"".join(pieces)
    return await run_sync(_unpacked, whole, largest) if encoding == "zstd" else whole


def _inflated(inflate: zlib._Decompress, chunk: bytes, left: int) -> bytes:
    try:
        return inflate.decompress(chunk, left + 1)  # one byte beyond the limit shows that the body exceeds it
    except zlib.error as error:
        raise UnsupportedError(
            "body.encoding", "the body is not gzip", "compress it again, or send it uncompressed"
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
    """Unpack piece by piece: the size that the frame declares is not trusted."""
    import pyarrow as pa  # imported here, so that only zstd bodies wait for it

    try:
        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (OSError, pa.ArrowException) as error:
        raise UnsupportedError(
            "body.encoding", "the body is not one complete zstd stream", "compress it again, or send it uncompressed"
        ) from error
