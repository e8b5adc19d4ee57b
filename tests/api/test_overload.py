from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from api.limits import Limits
from benchmarks.serve.open_loop import send_at_rate
from benchmarks.serve.overload import is_kept
from forecast.ledger.keys import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from forecast.installation import Installation

PATH = "/v1/forecasts"


@pytest.fixture
def body() -> bytes:
    hours = np.arange(48)
    channels = {name: (50 + 10 * np.sin(hours / 4)).tolist() for name in ("load", "price", "wind")}
    history: dict[str, Any] = {"start": "2024-01-01T00:00:00Z", "series": {"east": channels}}
    return json.dumps({"dataset": "tiny", "history": history}).encode()


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        (Limits(rate_per_second=0, max_requests_per_route=1, max_waiting=1, wait_milliseconds=50), 503),
        (Limits(rate_per_second=5, rate_burst=5), 429),
    ],
)
def test_requests_beyond_all_measure_are_answered_or_refused_and_none_hangs(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str], body: bytes,
    limits: Limits, refusal: int,
) -> None:  # fmt: skip
    key = make_key(home, Scope.READ)
    client = serve(home, limits)
    port = client.base_url.port
    assert port is not None
    seen = send_at_rate(port, PATH, [body], key, rate=1_500, seconds=1)
    assert set(seen.statuses) == {200, refusal}
    assert (seen.hanging, seen.without_retry_after) == (0, 0)
    assert client.get("/healthz").status_code == 200


def test_a_promise_is_broken_by_other_answers_by_silence_and_by_late_answers(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str], body: bytes
) -> None:
    port = serve(home, Limits(rate_per_second=0)).base_url.port
    assert port is not None
    seen = replace(
        send_at_rate(port, PATH, [body], make_key(home, Scope.READ), rate=20, seconds=0.5), admitted_p99_ms=1.0
    )
    assert seen.statuses == {200: 10}
    assert is_kept(seen)
    broken = [
        replace(seen, statuses={200: 9, 500: 1}),
        replace(seen, statuses={503: 10}),
        replace(seen, hanging=1),
        replace(seen, without_retry_after=1),
        replace(seen, admitted_p99_ms=301.0),
    ]
    assert not any(map(is_kept, broken))
