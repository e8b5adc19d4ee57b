"""Hostile bodies, names and lengths, sent to every route that takes them."""

from __future__ import annotations

import copy
import gzip
import io
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import polars as pl
import pyarrow as pa
import pytest

from api.limits import Limits
from benchmarks.fuzz.known import Known
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

MARK = "zqxhostile"
"""Part of whatever is sent; no answer may contain it."""
LONGEST_SECONDS = 5
JSON = {"Content-Type": "application/json"}
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
NAMES = [
    f"{MARK}'; DROP TABLE runs; --",
    f'<script>alert("{MARK}")</script>',
    f"../../../etc/{MARK}",
    f"{MARK}\x00{MARK}",
    f"{MARK}\r\nSet-Cookie: a=b",
    f"{MARK}\u202e\ufeff",
    f"${{jndi:ldap://{MARK}}}{{{{7*7}}}}%s%n",
    f"__proto__{MARK}",
    MARK * 2000,
    f"{MARK},{MARK}",
]
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "-" + "9" * 400, "1e-400", "0." + "3" * 5000]
MEDIA = [
    "text/csv", "text/tab-separated-values", "application/x-ndjson", "application/vnd.apache.arrow.file", ARROW,
    PARQUET, "application/octet-stream", "application/x-www-form-urlencoded", "multipart/form-data",
    f"multipart/form-data; boundary={MARK}", "application/json; charset=utf-16", f"application/{MARK}", ";;/", "\xff",
]  # fmt: skip

LENGTHS = [
    ("Content-Length: -1", "{}"),
    (f"Content-Length: {MARK}", "{}"),
    ("Content-Length: +2", "{}"),
    ("Content-Length: 2, 3", "{}"),
    ("Content-Length: 2\r\nContent-Length: 3", "{}"),
    (f"Content-Length: {'9' * 40}", "{}"),
    (f"Content-Length: {10**12}", "{}"),
    ("Transfer-Encoding: chunked", f"-1\r\n{MARK}\r\n"),
    ("Transfer-Encoding: chunked", f"{MARK}\r\n"),
    (f"Transfer-Encoding: {MARK}", "{}"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 2", "0\r\n\r\n"),
]
"""Headers, and what follows them."""


def changed(value: Any, leaf: Callable[[Any], Any], name: Callable[[str], str] = str) -> Any:
    """Replace every leaf and every name of a document."""
    if isinstance(value, dict):
        return {name(key): changed(item, leaf, name) for key, item in value.items()}
    if isinstance(value, list):
        return [changed(item, leaf, name) for item in value]
    return leaf(value)


def with_numbers(body: Any, number: str) -> bytes:
    text = json.dumps(changed(body, lambda leaf: leaf if isinstance(leaf, str) else f"#{MARK}#"))
    return text.replace(f'"#{MARK}#"', number).encode()


def with_texts(body: Any, text: str, *, also_numbers: bool = False) -> bytes:
    is_replaced = (lambda _: True) if also_numbers else (lambda leaf: isinstance(leaf, str))
    return json.dumps(changed(body, lambda leaf: text if is_replaced(leaf) else leaf)).encode()


def with_many(body: Any) -> Iterator[bytes]:
    """Yield a body with a million quantiles, and one with a million of everything that it has."""
    if isinstance(body, dict):
        yield json.dumps(body | {"quantiles": [0.5] * 10**6}).encode()
        yield json.dumps(body | {"level": [80] * 10**6}).encode()
        for key, value in body.items():
            yield json.dumps(body | {key: [value] * (10**6 // max(1, len(json.dumps(value))))}).encode()


def odd_values(body: Any) -> Iterator[bytes]:
    """Yield bodies of which everything, or one field, is of another kind."""
    for leaf in ([], {}, None, True, "x", -1, 0, 2**63, 2**64, 1e308, [[]], {"a": {}}):
        yield json.dumps(changed(body, lambda _, leaf=leaf: leaf)).encode()
        if isinstance(body, dict):
            for key in body:
                yield json.dumps(body | {key: leaf}).encode()


def deep(body: Any) -> Iterator[bytes]:
    """Yield bodies that are nested deeply, as a whole and in each of their fields."""
    for open_, close in (("[", "]"), ('{"a":', "}"), (f'{{"{MARK}":[', "]}")):
        nested = open_ * 50_000 + "1" + close * 50_000
        yield nested.encode()
        yield with_numbers(body, nested[: len(open_) * 50] + "1" + close * 50)
        if isinstance(body, dict):
            for key in body:
                rest = json.dumps({other: item for other, item in body.items() if other != key})
                yield (f'{{"{key}": {nested}, ' + rest[1:]).encode()


def as_json(body: Any) -> Iterator[bytes]:
    """Yield the hostile variants of a body that is JSON."""
    for number in NUMBERS:
        yield with_numbers(body, number)
    for text in (*NAMES, "", "\ud800", "\udfff", "9" * 5000):
        yield with_texts(body, text)
        yield with_texts(body, text, also_numbers=True)
    for name in (*NAMES, "\ud800", ""):
        yield json.dumps({name: body}).encode()
        if isinstance(body, dict):
            yield json.dumps(body | {name: 1}).encode()
            yield json.dumps(changed(body, lambda leaf: leaf, lambda key, name=name: key + name)).encode()
    yield from odd_values(body)
    yield from deep(body)
    yield from with_many(body)
    whole = json.dumps(body)
    yield ("{" + f'"{MARK}":1,' * 10_000 + whole[1:]).encode()
    for key in body if isinstance(body, dict) else ():
        yield (f'{{"{key}": "{MARK}", "{key}": null, ' + whole[1:]).encode()
    yield from (whole[:-1].encode(), whole[: len(whole) // 2].encode(), whole.encode() + b"}", whole.encode() * 2)
    yield from (whole.encode("utf-16"), b"\xef\xbb\xbf" + whole.encode(), b'{"' + MARK.encode() + b'\xff\xfe": 1}')
    yield whole.replace('"', f'"\x00{MARK}').encode()
    yield from (b"", b" ", b"null", b"true", b"[]", b"{}", b'""', b"0", b"[[]]", b"[null]", b"[{}]", b'{"rows": 1}')


def tables() -> Iterator[tuple[str, bytes]]:
    """Yield tables that are cut off, bent or full of what does not belong there."""
    frame = pl.DataFrame(
        {"time": ["2024-01-01T00:00:00"] * 50, "site": ["east"] * 50, "load": [1.0] * 50, MARK: [MARK] * 50}
    )
    arrow, parquet = io.BytesIO(), io.BytesIO()
    frame.write_ipc_stream(arrow)
    frame.write_parquet(parquet)
    for media, file in ((ARROW, arrow.getvalue()), (PARQUET, parquet.getvalue())):
        random = Random(1)  # noqa: S311
        yield from ((media, file[: len(file) * part // 8]) for part in range(9))
        for _ in range(20):
            place = random.randrange(len(file))
            yield media, file[:place] + bytes([file[place] ^ (1 << random.randrange(8))]) + file[place + 1 :]
        for odd in (
            {"time": [[1]], "site": [{"a": 1}], "load": [b"\xff"]},
            {"time": [None], "site": [None], "load": [float("nan")]},
            {"time": [2**62], "site": ["\u0000"], "load": [2**62]},
            {},
        ):
            buffer = io.BytesIO()
            made = pl.DataFrame(odd)
            _ = made.write_ipc_stream(buffer) if media == ARROW else made.write_parquet(buffer)
            yield media, buffer.getvalue()
    head = b"time,site,load,price,wind\n"
    for text in (
        head, head * 2, b"\n" * 1000, b"," * 10_000, b'"', head + b'"' + MARK.encode() * 100, head + b"\x00" * 100,
        head + b"2024-01-01T00:00:00,east," + b"9" * 400 + b",nan,inf\n", head + b"99999-01-01,east,1,1,1\n",
        head + b"0001-01-01T00:00:00,east,1,1,1\n9999-12-31T23:00:00,east,1,1,1\n", b"\xff\xfe" + head,
        b",".join([MARK.encode()] * 5000) + b"\n1\n",
        head + f"2024-01-01T00:00:00,{NAMES[1].replace(',', '')},1,1,1\n".encode(),
    ):  # fmt: skip
        yield from (("text/csv", text), ("text/tab-separated-values", text.replace(b",", b"\t")))
        yield "application/x-ndjson", text
    for line in (
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'{"time": 1e999}\n',
        b"[" * 50_000,
        b'{"time": {"a": [1]}, "site": 3}\n',
    ):
        yield from (("application/x-ndjson", line * 3), ("application/json", line))


def bombs() -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield compressed bodies that are large when they are unpacked, cut off, or not compressed at all."""
    squeeze = zlib.compressobj(9, wbits=31)
    zeros = b"".join(squeeze.compress(bytes(2**20)) for _ in range(200)) + squeeze.flush()
    spaces = pa.Codec("zstd").compress(b" " * 2**27, asbytes=True)
    sound = gzip.compress(f'["{MARK}"]'.encode())
    for encoding, body in (
        ("gzip", zeros), ("zstd", spaces), ("gzip", gzip.compress(zeros)), ("gzip", sound[:-5]), ("gzip", b""),
        ("gzip", MARK.encode()), ("zstd", MARK.encode()), ("zstd", spaces[:20]), ("zstd", b""), ("gzip", sound * 2),
        ("gzip, gzip", sound), ("br", sound), (MARK, sound), ("", sound), ("gzip", sound),
    ):  # fmt: skip
        yield {"Content-Encoding": encoding}, body


@pytest.fixture
def client(home: Installation, serve: Callable[..., httpx.Client]) -> httpx.Client:
    issue(home.dataset("tiny"))
    return serve(home, Limits(rate_per_second=0, max_body_mib=8, body_seconds=1))


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.fixture
def taking(
    client: httpx.Client, document: dict[str, Any], home: Installation, crowned: Callable[..., Manifest]
) -> dict[tuple[str, str], tuple[str, Any]]:
    """Every route that takes a body: its address and a body that it takes."""
    crowned(home, "repeat_last-2")  # so that one can go back
    known = Known(client, document, home.home)
    found = {}
    for route, item in document["paths"].items():
        for method, operation in item.items():
            if "requestBody" in operation:
                parts = known.request(method.upper(), route, Random(3))  # noqa: S311
                found[method.upper(), route] = (route.format(**parts.path), copy.deepcopy(parts.body))
    return found


def check(answer: httpx.Response, sent: object) -> list[str]:
    """Return what is wrong with an answer."""
    seconds = answer.elapsed.total_seconds()
    wrong = [f"{answer.status_code} {answer.text[:200]} to {sent}"] if answer.status_code >= 500 else []
    wrong += [f"{seconds:.1f} s for {sent}"] if seconds > LONGEST_SECONDS else []
    is_repeated = answer.status_code >= 400 and (MARK in answer.text or MARK in str(answer.headers))
    return wrong + ([f"repeated: {answer.text[:300]} to {sent}"] if is_repeated else [])


def hostile(body: Any) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield headers and bodies; ``body`` is one that the route takes."""
    whole = json.dumps(body).encode()
    yield from ((JSON, content) for content in as_json(body))
    yield from (({"Content-Type": media}, whole) for media in MEDIA)
    yield from (({"Content-Type": media}, content) for media, content in tables())
    yield from ((JSON | headers, content) for headers, content in bombs())
    yield from (({}, whole), ({}, b""))


@pytest.mark.slow
def test_no_body_brings_a_route_down_or_comes_back(
    client: httpx.Client, taking: dict[tuple[str, str], tuple[str, Any]], subtests: pytest.Subtests
) -> None:
    assert len(taking) >= 10
    for (method, route), (address, body) in taking.items():
        with subtests.test(method=method, route=route):
            wrong = []
            for headers, content in hostile(body):
                is_json = "json" in headers.get("Content-Type", "json")
                answer = client.request(
                    method,
                    address + ("?dataset=tiny" if route == "/v1/forecasts" and not is_json else ""),
                    content=content,
                    headers={name: value.encode("latin-1") for name, value in headers.items()},
                )
                wrong += check(answer, (headers, content[:200], len(content)))
            assert wrong == []


@pytest.mark.slow
def test_no_name_in_an_address_brings_a_route_down_or_comes_back(
    client: httpx.Client, document: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for route, item in document["paths"].items():
        for method, operation in item.items():
            with subtests.test(method=method, route=route):
                wrong = []
                for address in addresses(route, operation.get("parameters", ())):
                    with client.stream(method, address) as answer:
                        if "event-stream" not in answer.headers.get("content-type", ""):  # else it never ends
                            answer.read()
                            wrong += check(answer, address[:200])
                assert wrong == []


def addresses(route: str, parameters: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield addresses of a route, each with one parameter that is hostile."""
    words = [quote(name, safe="") for name in NAMES]
    words += [MARK + odd for odd in ("%ff%fe", "%00", "%ed%a0%80", "%", "%zz", "..%2f..", "%5c..%5c")]
    words += [
        "9" * 5000,
        "-1",
        "1e9",
        "nan",
        "%20",
        "%2e%2e",
        "",
        "0001-01-01T00:00:00%2b14:00",
        "9999-12-31T23:59:59Z",
    ]
    known = {"dataset": "tiny", "name": "tiny", "version": "champion", "job": "nobodys", "run": "999999999"}
    for parameter in parameters:
        name, is_path = parameter["name"], parameter["in"] == "path"
        for word in words:
            filled = route.format(**(known | {name: word} if is_path else known))
            yield filled if is_path else f"{filled}?{name}={word}"
    filled = route.format(**known)
    yield from (f"{filled}?{word}=1" for word in words)


def test_lengths_that_cannot_be_are_refused(
    client: httpx.Client, taking: dict[tuple[str, str], tuple[str, Any]], subtests: pytest.Subtests
) -> None:
    for (method, route), (address, _) in taking.items():
        for header, rest in LENGTHS:
            with subtests.test(route=route, header=header[:60]):
                answer = raw(client, f"{method} {address} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n{rest}")
                assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
                assert MARK.encode() not in answer


@pytest.mark.slow
def test_a_body_that_does_not_arrive_is_not_waited_for(
    client: httpx.Client, taking: dict[tuple[str, str], tuple[str, Any]], subtests: pytest.Subtests
) -> None:
    for (method, route), (address, _) in taking.items():
        with subtests.test(route=route):
            began = time.monotonic()
            head = f"{method} {address} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            answer = raw(client, f'{head}Content-Length: 100\r\n\r\n{{"{MARK}')
            assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
            assert b"body.too_slow" in answer
            assert MARK.encode() not in answer
            assert time.monotonic() - began < LONGEST_SECONDS


def raw(client: httpx.Client, content: str) -> bytes:
    """Send bytes as they are, and return the answer."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as one:
        one.sendall(content.encode())
        return one.recv(2**16)
