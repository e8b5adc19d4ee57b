from __future__ import annotations

import contextlib
import gzip
import resource
import socket
import zlib
from typing import TYPE_CHECKING

import httpx
import pyarrow as pa
import pytest

from api.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from forecast.installation import Installation

CHECK = "/v1/datasets/tiny/validate"
CSV = {"Content-Type": "text/csv"}
ROWS = "time,site,load,price,wind\n" + "".join(f"2024-01-01 0{hour}:00:00,east,1,2,3\n" for hour in range(5))


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def gzip_bomb(mebibytes: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=31)
    return b"".join(squeeze.compress(bytes(2**20)) for _ in range(mebibytes)) + squeeze.flush()


@pytest.fixture
def small(home: Installation, serve: Callable[..., httpx.Client]) -> httpx.Client:
    return serve(home, Limits(max_body_mib=2))


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd), ("identity", bytes)])
def test_a_body_may_be_compressed(
    small: httpx.Client, encoding: str, pack: Callable[[bytes], bytes], subtests: pytest.Subtests
) -> None:
    answer = small.post(CHECK, content=pack(ROWS.encode()), headers=CSV | {"Content-Encoding": encoding})
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"] == 5
    with subtests.test("cut short"):
        if encoding != "identity":
            cut = small.post(CHECK, content=pack(ROWS.encode())[:-6], headers=CSV | {"Content-Encoding": encoding})
            assert (cut.status_code, cut.json()["code"]) == (415, "body.encoding")
    with subtests.test("too large"):
        large = small.post(CHECK, content=pack(b"x" * (2**21 + 1)), headers=CSV | {"Content-Encoding": encoding})
        assert (large.status_code, large.json()["code"]) == (413, "body.too_large")


@pytest.mark.slow
def test_a_bomb_does_not_go_off(small: httpx.Client) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bombs = {"gzip": gzip_bomb(1500), "zstd": zstd(bytes(2**28))}
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for encoding, bomb in bombs.items():
        assert len(bomb) < 2**21
        answer = small.post(CHECK, content=bomb, headers=CSV | {"Content-Encoding": encoding})
        assert (answer.status_code, answer.json()["code"]) == (413, "body.too_large")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - made
    assert grown < 64 * 1024, f"{grown} KiB more; making the bombs took {made - before}"


def test_what_follows_a_compressed_body_is_not_overlooked(small: httpx.Client) -> None:
    answer = small.post(CHECK, content=gzip.compress(b"a") + b"rest", headers=CSV | {"Content-Encoding": "gzip"})
    assert answer.json()["code"] == "body.encoding"


def test_a_body_of_unknown_length_is_counted_as_it_comes(small: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += 2**20
            yield bytes(2**20)

    with contextlib.suppress(httpx.TransportError):  # cut off while it sends, it may miss the answer
        answer = small.post(CHECK, content=endless(), headers=CSV)
        assert (answer.status_code, answer.json()["code"]) == (413, "body.too_large")
    assert sent < 100 * 2**20


def test_a_length_that_is_too_large_is_refused_before_a_byte_comes(small: httpx.Client) -> None:
    head = f"POST {CHECK} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**12}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((small.base_url.host, small.base_url.port or 80), timeout=20) as one:
        one.sendall(head.encode())
        answer = one.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body.too_large" in answer


@pytest.mark.parametrize("path", ["/v1/datasets", "/readyz", "/v1/datasets/tiny/forecast"])
def test_a_route_that_reads_no_body_does_not_wait_for_one(small: httpx.Client, path: str) -> None:
    assert small.request("GET", path, content=b"x" * 1000).status_code in {200, 503}
