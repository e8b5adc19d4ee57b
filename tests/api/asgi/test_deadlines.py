from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from api.limits import Limits
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from forecast.installation import Installation

HEAD = b"POST /v1/datasets/tiny/validate HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
QUICK = Limits(header_seconds=1, body_seconds=1, write_seconds=1)


@pytest.fixture
def quick(home: Installation, serve: Callable[..., httpx.Client]) -> httpx.Client:
    issue(home.dataset("tiny"))
    return serve(home, QUICK)


@contextlib.contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as one:
        yield one


def rest(one: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(2**16):
            pieces.append(piece)
    return b"".join(pieces)


def problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


def test_headers_that_do_not_end_are_cut_off(quick: httpx.Client) -> None:
    with connected(quick) as one:
        one.sendall(HEAD)
        assert problem(rest(one)) == (408, "headers.too_slow")


def test_a_connection_without_a_word_is_closed(quick: httpx.Client) -> None:
    with connected(quick) as one:
        assert rest(one) == b""


def test_the_second_request_of_a_connection_has_a_deadline_too(quick: httpx.Client) -> None:
    with connected(quick) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(2**16).startswith(b"HTTP/1.1 200")
        one.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert problem(rest(one)) == (408, "headers.too_slow")


def test_endless_headers_are_refused_before_they_are_kept(quick: httpx.Client) -> None:
    with connected(quick) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(HEAD + b"X-Padding: " + b"x" * 2**20)
        answer = rest(one)
    assert not answer or problem(answer) == (431, "headers.too_large")


def test_a_body_that_does_not_arrive_is_answered_and_cut_off(quick: httpx.Client) -> None:
    with connected(quick) as one:
        one.sendall(HEAD + b"Content-Length: 1000\r\n\r\ntime,site")
        assert problem(rest(one)) == (408, "body.too_slow")


def test_a_body_that_drips_is_cut_off_all_the_same(quick: httpx.Client) -> None:
    with connected(quick) as one:
        one.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        one.settimeout(0.1)
        for _ in range(100):
            try:
                one.sendall(b"x")
                answer = one.recv(2**16)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                answer = b""
                break
        else:
            pytest.fail("it dripped for ever")
    assert not answer or problem(answer) == (408, "body.too_slow")


def test_who_takes_nothing_of_the_answer_is_given_up(quick: httpx.Client, wait_until: Callable[..., None]) -> None:
    def in_flight() -> float:
        lines = quick.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("forecast_requests_in_flight ")))

    with connected(quick) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /v1/datasets/tiny/forecast?horizon=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4)
        wait_until(lambda: in_flight() > 1, 20)
        wait_until(lambda: in_flight() == 1, 20)  # the one that asks


def test_idle_connections_do_not_block_requests(quick: httpx.Client) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(quick)) for _ in range(300)]
        for number, one in enumerate(idle):
            one.sendall((b"", HEAD, HEAD + b"Content-Length: 10\r\n\r\nx")[number % 3])
        began = time.monotonic()
        assert quick.get("/v1/datasets/tiny/forecast").status_code == 200
        assert time.monotonic() - began < 2
        for one in idle:  # and all of them are rid of by the deadlines
            rest(one)


def test_more_connections_than_may_be_are_refused(home: Installation, serve: Callable[..., httpx.Client]) -> None:
    client = serve(home, Limits(max_connections=5))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(client)).sendall(HEAD)
        with connected(client) as one:
            assert problem(rest(one)) == (503, "connections.too_many")


def test_who_was_refused_and_sends_on_is_cut_off(quick: httpx.Client) -> None:
    with connected(quick) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
            for _ in range(200):
                one.sendall(chunk)
        assert rest(one).startswith((b"HTTP/1.1 404", b""))
    assert quick.get("/healthz").status_code == 200
