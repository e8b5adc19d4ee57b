"""Reading what a client sends: never more than a cap, also after decompression, and never longer than a deadline."""

from __future__ import annotations

import zlib

import anyio
from fastapi import Request

from forecast.errors import ForecastError

LARGEST = 64 * 2**20
"""Bytes of a body, compressed or not."""
_DEADLINE_SECONDS = 60


class TooLargeError(ForecastError):
    """A body is larger than the service takes."""


class SlowBodyError(ForecastError):
    """A body takes longer to arrive than the service waits."""


class UnsupportedError(ForecastError):
    """A body is of a kind that the service does not read."""


async def read_body(request: Request, largest: int = LARGEST) -> bytes:
    """Read a body as it comes, decompressed if it is gzip; refused as soon as it is too large.

    Raises ``body.too_large``, ``body.too_slow``, ``body.encoding``.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        raise UnsupportedError("body.encoding", "the body is compressed in a way that is not known", "send gzip")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > largest:
        raise _too_large(largest)
    pieces: list[bytes] = []
    size = 0
    inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    try:
        with anyio.fail_after(_DEADLINE_SECONDS):
            async for chunk in request.stream():
                piece = chunk if inflate is None else _inflated(inflate, chunk, largest - size)
                size += len(piece)
                if size > largest:
                    raise _too_large(largest)
                pieces.append(piece)
    except TimeoutError as error:
        raise SlowBodyError(
            "body.too_slow", f"the body took longer than {_DEADLINE_SECONDS} s to arrive", "send less at once"
        ) from error
    if inflate is not None and not inflate.eof:
        raise UnsupportedError("body.encoding", "the body is not whole gzip", "compress it again")
    return b"".join(pieces)


def _inflated(inflate: zlib._Decompress, chunk: bytes, left: int) -> bytes:
    try:
        return inflate.decompress(chunk, left + 1)  # one more than fits shows that it does not
    except zlib.error as error:
        raise UnsupportedError(
            "body.encoding", "the body is not gzip", "compress it again, or send it as it is"
        ) from error


def _too_large(largest: int) -> TooLargeError:
    return TooLargeError(
        "body.too_large", f"a body may have {largest // 2**20} MiB", "send the rows in several requests"
    )
