from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from forecast.ledger.keys import Scope
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation
    from tests.api.conftest import Served

FORECAST = "/v1/datasets/tiny/forecast"
QUERIES = ("", "?horizon=6&tz=Asia/Tokyo", "?series=east&channels=load&quantiles=0.5", "?horizon=40")


def content_of(answer: httpx.Response) -> tuple[object, ...]:
    """Return an answer without what is its own: its date, its id and its age."""
    headers = [pair for pair in answer.headers.multi_items() if pair[0] not in {"date", "x-request-id"}]
    return answer.status_code, sorted(headers), answer.content.partition(b'"stale"')[2]


@pytest.mark.slow
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("headers", [{}, {"Accept": "application/json"}, {"If-None-Match": "*"}])
def test_the_same_words_get_the_same_answer_again(served: Served, query: str, headers: dict[str, str]) -> None:
    first, *others = [served.client.get(FORECAST + query, headers=headers) for _ in range(3)]
    assert first.status_code == (304 if "If-None-Match" in headers else 200)
    assert all(content_of(other) == content_of(first) for other in others)


def test_a_known_answer_is_304_for_a_client_that_has_it(served: Served) -> None:
    etag = [served.client.get(FORECAST) for _ in range(2)][-1].headers["etag"]
    again = served.client.get(FORECAST, headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert "content-type" not in again.headers


def test_head_has_the_headers_of_a_known_answer(served: Served) -> None:
    known = [served.client.get(FORECAST) for _ in range(2)][-1]
    head = served.client.head(FORECAST)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == known.headers["etag"]
    assert abs(int(head.headers["content-length"]) - len(known.content)) <= 2  # the age may have another digit


def test_another_format_is_another_answer(served: Served) -> None:
    for media in ("application/json", "text/csv", "application/json", "text/csv"):
        assert served.client.get(FORECAST, headers={"Accept": media}).headers["content-type"].startswith(media)


def test_a_known_answer_needs_the_right_key(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]
) -> None:
    issue(home.dataset("tiny"))
    key = make_key(home, Scope.READ, "tiny")
    elsewhere = make_key(home, Scope.READ, "other")
    client = serve(home)
    for _ in range(3):
        assert client.get(FORECAST, headers={"X-API-Key": key}).status_code == 200
    assert client.get(FORECAST, headers={"X-API-Key": elsewhere}).status_code == 403
    assert client.get(FORECAST, headers={"X-API-Key": key[:-1] + "?"}).status_code == 401
    assert client.get(FORECAST).status_code == 401


def test_a_known_answer_gives_way_to_the_next_forecast(
    served: Served, crowned: Callable[..., object], wait_until: Callable[..., None]
) -> None:
    before = [served.get().json()["forecast_id"] for _ in range(3)][-1]
    crowned(served.home, "repeat_last-2")
    after, _ = issue(served.home.dataset("tiny"))
    assert after.forecast_id != before
    wait_until(lambda: served.get().json()["forecast_id"] == after.forecast_id)
