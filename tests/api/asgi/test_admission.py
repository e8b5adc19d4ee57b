from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import api.forecasts.encoding
from api.asgi.admission import FORECASTING, Admission, Rates
from api.limits import Limits
from forecast.errors import ConfigError
from forecast.ledger.keys import Scope
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation

FORECAST = "/v1/datasets/tiny/forecast"


def test_one_sender_cannot_ask_without_end(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]
) -> None:
    keys = [make_key(home, Scope.READ) for _ in range(2)]
    client = serve(home, Limits(rate_per_second=1, rate_burst=5))
    statuses = [client.get("/v1/datasets", headers={"X-API-Key": keys[0]}) for _ in range(12)]
    assert statuses[0].status_code == 200
    refused = statuses[-1]
    assert (refused.status_code, refused.json()["code"]) == (429, "rate.exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    # Another key has its own share, and so have strangers.
    assert client.get("/v1/datasets", headers={"X-API-Key": keys[1]}).status_code == 200


def test_a_rate_of_nought_is_no_limit(home: Installation, serve: Callable[..., httpx.Client]) -> None:
    client = serve(home, Limits(rate_per_second=0, rate_burst=1))
    assert {client.get("/healthz").status_code for _ in range(50)} == {200}


def test_senders_that_come_and_go_are_forgotten() -> None:
    now = [0.0]
    rates = Rates(per_second=10, burst=10, monotonic=lambda: now[0])
    for number in range(25_000):
        now[0] += 0.001
        assert rates.wait(str(number)) == 0
    assert len(rates._buckets) <= 10_000


def test_what_comes_too_late_for_its_turn_is_refused_and_health_is_not(
    home: Installation, serve: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:  # fmt: skip
    issue(home.dataset("tiny"))
    encode, go_on, at_work = api.forecasts.encoding.json_rest, threading.Event(), []

    def slow(forecast: Any, part: Any, config: Any, **given: Any) -> bytes:
        if part.horizon < 6:
            at_work.append(part.horizon)
            go_on.wait(20)
        return encode(forecast, part, config, **given)

    monkeypatch.setattr(api.forecasts.encoding, "json_rest", slow)
    client = serve(home, Limits(max_requests=3, max_requests_per_route=2, max_waiting=1, wait_milliseconds=300))
    url = client.base_url.join(FORECAST)
    with ThreadPoolExecutor(8) as pool:
        try:
            first = [pool.submit(httpx.get, url, params={"horizon": h}, timeout=60, trust_env=False) for h in (1, 2)]
            wait_until(lambda: len(at_work) == 2)
            late = client.get(FORECAST, params={"horizon": 3})
            assert (late.status_code, late.json()["code"]) == (503, "service.busy")
            assert late.headers["retry-after"] == "1"
            for path in ("/healthz", "/readyz", "/metrics", "/v1/datasets"):
                assert client.get(path).status_code == 200
        finally:
            go_on.set()
        assert {item.result().status_code for item in first} == {200}
    assert client.get(FORECAST, params={"horizon": 6}).status_code == 200
    assert 'forecast_refused_total{code="service.busy"} 1.0' in client.get("/metrics").text


def test_turns_are_given_in_order_and_none_is_lost() -> None:
    async def crowd() -> tuple[list[int], int, int]:
        admission = Admission(Limits(max_requests=2, max_requests_per_route=2, max_waiting=50, wait_milliseconds=5000))
        order: list[int] = []

        async def one(number: int) -> None:
            assert await admission.enter("route")
            order.append(number)
            await asyncio.sleep(0)
            admission.leave("route")

        tasks = [asyncio.create_task(one(number)) for number in range(40)]
        await asyncio.sleep(0)
        tasks[10].cancel()  # its client left while it waited
        await asyncio.gather(*tasks, return_exceptions=True)
        return order, admission.working, len(admission._waiting)

    order, working, waiting = asyncio.run(crowd())
    assert order == [number for number in range(40) if number != 10]
    assert (working, waiting) == (0, 0)


def test_a_crowded_route_leaves_the_others_alone() -> None:
    async def crowd() -> list[bool]:
        admission = Admission(Limits(max_requests=5, max_requests_per_route=2, max_waiting=5, wait_milliseconds=10))
        entered = [admission.try_enter("crowded"), admission.try_enter("crowded"), admission.try_enter("crowded")]
        return [*entered, await admission.enter("crowded"), admission.try_enter("other")]

    assert asyncio.run(crowd()) == [True, True, False, False, True]


def test_of_forecasts_on_demand_fewer_are_at_work_than_of_others() -> None:
    for route in FORECASTING:
        admission = Admission(Limits(max_forecasts=1))
        assert [admission.try_enter(route) for _ in range(2)] == [True, False]
        assert admission.try_enter("/v1/datasets")


def test_who_sends_slowly_has_no_turn_before_all_is_there(
    home: Installation, serve: Callable[..., httpx.Client]
) -> None:
    client = serve(home, Limits(max_requests=1, max_waiting=1))
    place = (client.base_url.host, client.base_url.port)
    head = f"POST /v1/forecasts HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(place, timeout=10) as slow:
        slow.sendall(head.encode() + b"{")
        for _ in range(20):
            assert client.get("/v1/datasets").status_code == 200
        slow.sendall(b"}")
        assert slow.recv(1000).startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "0", "10000000", "²"])
def test_a_limit_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="FORECAST_MAX_REQUESTS is not") as refused:
        Limits.from_environment({"FORECAST_MAX_REQUESTS": text})
    assert refused.value.code == "limits.malformed"


def test_limits_are_set_by_the_environment() -> None:
    assert Limits.from_environment({"FORECAST_RATE_PER_SECOND": "0", "FORECAST_MAX_BODY_MIB": "1"}) == Limits(
        rate_per_second=0, max_body_mib=1
    )
