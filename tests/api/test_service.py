from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI

import api.forecasts.encoding
import api.routes.datasets
import api.state.latest
from api.errors.problems import STATUS, answer, status_of
from forecast.errors import ForecastError, StorageError
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served


def test_the_data_sets_are_listed_with_what_is_in_them(served: Served) -> None:
    listed = served.client.get("/v1/datasets").json()["datasets"]
    assert listed == [served.client.get("/v1/datasets/tiny").json()]
    described = listed[0]
    assert described["series"] == ["east", "west"]
    assert [(c["name"], c["role"], c["unit"], c["lower"]) for c in described["channels"]] == [
        ("load", "target", "MW", 0.0),
        ("price", "target", "EUR/MWh", None),
        ("wind", "past", "m/s", None),
    ]
    assert (described["frequency"], described["zone"], described["horizons"], described["quantiles"]) == (
        "1h",
        "UTC",
        [6, 24],
        [0.1, 0.5, 0.9],
    )
    assert (described["data_version"], described["newest_row"]) == (0, "2024-01-17T15:00:00Z")
    assert described["champion"]["model_version"] == "repeat_last-1"
    assert described["latest_forecast"]["forecast_id"] == served.issuance.forecast_id


def test_a_data_set_without_rows_is_described_as_empty(
    make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client]
) -> None:
    described = serve(make_home()).get("/v1/datasets/tiny").json()
    empty = ("series", "data_version", "newest_row", "champion", "latest_forecast")
    assert [described[name] for name in empty] == [[], None, None, None, None]


def test_a_data_set_that_did_not_change_is_answered_with_304(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    client = serve(home)
    etag = client.get("/v1/datasets/tiny").headers["etag"]
    assert client.get("/v1/datasets/tiny", headers={"If-None-Match": etag}).status_code == 304


def test_the_service_is_alive_before_it_is_ready(
    home: Installation, serve: Callable[[Installation], httpx.Client], wait_until: Callable[..., None]
) -> None:
    client = serve(home)
    assert client.get("/healthz").json() == {"status": "alive"}
    waiting = client.get("/readyz")
    assert waiting.status_code == 503
    assert waiting.json()["datasets"] == [
        {
            "dataset": "tiny",
            "ready": False,
            "forecast_id": None,
            "age": None,
            "stale": None,
            "reasons": ["forecast.none_yet"],
        }
    ]
    issuance, _ = issue(home.dataset("tiny"))
    wait_until(lambda: client.get("/readyz").status_code == 200)
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["datasets"][0]["forecast_id"] == issuance.forecast_id


def test_what_is_in_memory_is_served_while_the_ledger_is_away(
    served: Served, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise StorageError("ledger.failed", "the ledger cannot be used (disk at /secret/place)")

    monkeypatch.setattr(type(served.home.ledger.issuances), "latest", refuse)
    monkeypatch.setattr(type(served.home.ledger.champions), "current", refuse)
    wait_until(lambda: served.client.get("/readyz").json()["status"] == "degraded")
    assert served.client.get("/readyz").json()["datasets"][0]["reasons"] == ["ledger.failed"]
    assert served.get().status_code == 200
    refused = served.client.get("/v1/datasets/tiny")
    assert (refused.status_code, refused.json()["code"]) == (503, "ledger.failed")
    assert "secret" not in refused.text


def test_an_unexpected_failure_is_a_problem_without_a_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(api.routes.datasets, "describe", fail)
    failed = served.client.get("/v1/datasets/tiny")
    assert (failed.status_code, failed.json()["code"]) == (500, "internal")
    assert "secret" not in failed.text
    assert "Traceback" not in failed.text
    assert failed.headers["content-security-policy"]
    assert served.client.get("/healthz").status_code == 200


def test_every_kind_of_failure_has_a_status() -> None:
    kinds = [ForecastError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        status = status_of(kind("some.code", "a fact", "a remedy"))
        assert 400 <= status < 600
        assert STATUS.get(kind, status) == status
    assert answer(ForecastError("some.code", "a fact")).status_code == 500


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_needs_no_network(served: Served, path: str) -> None:
    page = served.client.get(path).text
    links = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert served.client.get(link).status_code == 200


def test_the_documentation_shows_the_parameters_and_an_example(served: Served) -> None:
    described = served.client.get("/openapi.json").json()
    operation = described["paths"]["/v1/datasets/{dataset}/forecast"]["get"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {
        "dataset", "series", "channels", "horizon", "quantiles", "as_of", "tz", "start", "end", "model", "lead_time",
    }  # fmt: skip
    assert set(operation["responses"]) == {"200", "304", "401", "403", "404", "406", "422", "429", "503"}
    assert "text/csv" in operation["responses"]["200"]["content"]
    for refusal in ("401", "403", "404", "406", "422", "429", "503"):
        assert list(operation["responses"][refusal]["content"]) == ["application/problem+json"]
    example = described["components"]["schemas"]["ForecastAnswer"]["examples"][0]
    answered = served.get(horizon=1, series="east", channels="load").json()
    assert set(example) | {"fallback_reason"} == set(answered)  # OpenAPI leaves out what is null
    assert set(example["forecasts"][0]["points"][0]) == set(answered["forecasts"][0]["points"][0])


def test_an_application_can_be_made_without_serving_it(home: Installation) -> None:
    assert isinstance(api.app.create_app(home), FastAPI)


def test_many_clients_read_at_once(served: Served) -> None:
    url = served.client.base_url.join("/v1/datasets/tiny/forecast")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda horizon: httpx.get(url, params={"horizon": horizon}, timeout=60, trust_env=False), range(20, 60)
            )
        )
    assert {item.status_code for item in answers} == {200}
    assert [item.json()["horizon"] for item in answers] == list(range(20, 60))


def test_a_flood_of_long_answers_leaves_the_service_to_the_others(
    served: Served, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    encode, go_on, lock = api.forecasts.encoding.json_rest, threading.Event(), threading.Lock()
    now = most = 0

    def slow(forecast: Any, part: Any, config: Any, **given: Any) -> bytes:
        nonlocal now, most
        if part.horizon > 24:
            with lock:
                now += 1
                most = max(most, now)
            go_on.wait(20)
            with lock:
                now -= 1
        return encode(forecast, part, config, **given)

    monkeypatch.setattr(api.forecasts.encoding, "json_rest", slow)
    url = served.client.base_url.join("/v1/datasets/tiny/forecast")
    with ThreadPoolExecutor(48) as pool:
        flood = [
            pool.submit(httpx.get, url, params={"horizon": horizon}, timeout=60, trust_env=False)
            for horizon in range(25, 73)
        ]
        try:
            wait_until(lambda: now == 2)
            for path in ("/healthz", "/readyz", "/v1/datasets", "/v1/datasets/tiny/forecast?horizon=3"):
                assert served.client.get(path).status_code == 200
            assert not any(item.done() for item in flood)
        finally:
            go_on.set()
        assert {item.result().status_code for item in flood} == {200}
    assert most == 2


def test_a_very_long_answer_is_not_kept(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, made = api.forecasts.encoding.json_rest, []

    def counted(forecast: Any, part: Any, config: Any, **given: Any) -> bytes:
        made.append(part.horizon)
        return encode(forecast, part, config, **given)

    monkeypatch.setattr(api.forecasts.encoding, "json_rest", counted)
    for _ in range(2):
        assert served.get(horizon=30).status_code == 200
        assert len(served.get(horizon=10_000).content) > 2 * 2**20
    assert sorted(made) == [30, 10_000, 10_000]


def test_channels_that_the_lake_does_not_have_are_the_service_s_fault(
    served: Served,
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    serve: Callable[[Installation], httpx.Client],
    wait_until: Callable[..., None],
) -> None:
    tiny_document["datasets"]["tiny"]["channels"]["sun"] = {"role": "past"}
    client = serve(make_home(document=tiny_document))
    refusal = client.get("/v1/datasets/tiny")
    assert (refusal.status_code, refusal.json()["code"]) == (503, "lake.channels_changed")
    page = client.get("/")
    prolonged = client.get("/v1/datasets/tiny/forecast?horizon=25")
    assert (page.status_code, prolonged.status_code) == (503, 503)
    for refused in (refusal, page, prolonged):
        assert str(served.home.home.path) not in refused.text
    wait_until(lambda: client.get("/readyz").json()["status"] == "degraded")
    assert client.get("/readyz").json()["datasets"][0]["reasons"] == ["lake.channels_changed"]
    assert client.get("/v1/datasets/tiny/forecast").status_code == 200


def test_a_home_that_no_table_can_lie_in_is_the_service_s_fault(
    make_home: Callable[..., Installation], tmp_path: Path, serve: Callable[[Installation], httpx.Client]
) -> None:
    client = serve(make_home(folder=tmp_path / "50%"))
    for path in ("/v1/datasets", "/v1/datasets/tiny", "/"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "lake.unusable_path" in answer.text
        assert str(tmp_path) not in answer.text


def test_an_unforeseen_failure_does_not_end_the_following_of_the_ledger(
    served: Served, monkeypatch: pytest.MonkeyPatch, crowned: Callable[..., Manifest], wait_until: Callable[..., None]
) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("the secret")

    crowned(served.home, "repeat_last-2", bias=0.3)
    with monkeypatch.context() as broken:
        broken.setattr(api.state.latest, "read_issued", fail)
        second, _ = issue(served.home.dataset("tiny"))
        wait_until(lambda: served.client.get("/readyz").json()["datasets"][0]["reasons"] == ["internal"])
        assert served.get().json()["forecast_id"] == served.issuance.forecast_id
    wait_until(lambda: served.get().json()["forecast_id"] == second.forecast_id)
    assert served.client.get("/readyz").json()["status"] == "ready"


def test_a_ledger_that_does_not_answer_degrades_the_service(
    served: Served, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    go_on = threading.Event()
    with monkeypatch.context() as hung:
        hung.setattr(api.state.latest, "_LATE_SECONDS", 0.2)
        hung.setattr(type(served.home.ledger.issuances), "latest", lambda *_args, **_kwargs: go_on.wait(20) and None)
        wait_until(lambda: served.client.get("/readyz").json()["datasets"][0]["reasons"] == ["forecast.not_followed"])
        assert served.client.get("/readyz").json()["status"] == "degraded"
        go_on.set()
    wait_until(lambda: served.client.get("/readyz").json()["status"] == "ready")


def test_the_description_promises_an_etag_only_where_there_is_one(served: Served) -> None:
    description = served.client.get("/openapi.json").json()["info"]["description"]
    assert "answers under `/v1/datasets` have an `ETag`" in description
    paths = ("/v1/datasets", "/v1/datasets/tiny", "/v1/datasets/tiny/forecast", "/healthz", "/readyz", "/")
    assert ["etag" in served.client.get(path).headers for path in paths] == [True] * 3 + [False] * 3
