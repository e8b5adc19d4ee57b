from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

import api.routes.datasets
from api.problems import STATUS, answer, status_of
from forecast.errors import ForecastError, StorageError
from pipelines.predict import issue

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation
    from tests.api.conftest import Served


def test_the_data_sets_are_listed_with_what_is_in_them(served: Served) -> None:
    listed = served.client.get("/v1/datasets").json()["datasets"]
    assert listed == [served.client.get("/v1/datasets/tiny").json()]
    told = listed[0]
    assert told["series"] == ["east", "west"]
    assert [(c["name"], c["role"], c["unit"], c["lower"]) for c in told["channels"]] == [
        ("load", "target", "MW", 0.0),
        ("price", "target", "EUR/MWh", None),
        ("wind", "past", "m/s", None),
    ]
    assert (told["frequency"], told["zone"], told["horizons"], told["quantiles"]) == (
        "1h",
        "UTC",
        [6, 24],
        [0.1, 0.5, 0.9],
    )
    assert (told["data_version"], told["newest_row"]) == (0, "2024-01-17T15:00:00Z")
    assert told["champion"]["model_version"] == "repeat_last-1"
    assert told["latest_forecast"]["forecast_id"] == served.issuance.forecast_id


def test_a_data_set_without_rows_is_described_as_empty(
    make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client]
) -> None:
    told = serve(make_home()).get("/v1/datasets/tiny").json()
    empty = ("series", "data_version", "newest_row", "champion", "latest_forecast")
    assert [told[name] for name in empty] == [[], None, None, None, None]


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
    issuance, _ = issue("tiny", home)
    wait_until(lambda: client.get("/readyz").status_code == 200)
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["datasets"][0]["forecast_id"] == issuance.forecast_id


def test_what_is_in_memory_is_served_while_the_ledger_is_away(
    served: Served, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise StorageError("ledger.failed", "the ledger cannot be used (disk at /secret/place)")

    monkeypatch.setattr(type(served.home.ledger), "issuance", refuse)
    monkeypatch.setattr(type(served.home.ledger), "champion", refuse)
    wait_until(lambda: served.client.get("/readyz").json()["status"] == "degraded")
    assert served.client.get("/readyz").json()["datasets"][0]["reasons"] == ["ledger.failed"]
    assert served.get().status_code == 200
    refused = served.client.get("/v1/datasets/tiny")
    assert (refused.status_code, refused.json()["code"]) == (503, "ledger.failed")
    assert "secret" not in refused.text


def test_a_failure_nobody_foresaw_is_a_problem_without_a_traceback(
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
    assert names == {"dataset", "series", "channels", "horizon", "quantiles", "as_of", "tz"}
    assert set(operation["responses"]) == {"200", "304", "404", "406", "422", "503"}
    assert "text/csv" in operation["responses"]["200"]["content"]
    for refusal in ("404", "406", "422", "503"):
        assert list(operation["responses"][refusal]["content"]) == ["application/problem+json"]
    example = described["components"]["schemas"]["ForecastAnswer"]["examples"][0]
    answered = served.get(horizon=1, series="east", channels="load").json()
    assert set(example) | {"fallback_reason"} == set(answered)  # OpenAPI leaves out what is null
    assert set(example["forecasts"][0]["points"][0]) == set(answered["forecasts"][0]["points"][0])


def test_an_application_can_be_made_without_serving_it(home: Installation) -> None:
    assert isinstance(api.app.create_app(home), FastAPI)


def test_the_script_of_plotly_is_the_one_of_its_package(served: Served) -> None:
    page = served.client.get("/").text
    path = re.search(r'src="(/static/plotly-[\d.]+\.min\.js)"', page)[1]
    script = served.client.get(path)
    assert "immutable" in script.headers["cache-control"]
    assert script.headers["content-type"].startswith("text/javascript")
    import plotly.offline

    assert hashlib.sha256(script.content).digest() == hashlib.sha256(plotly.offline.get_plotlyjs().encode()).digest()


def test_many_clients_read_at_once(served: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    url = served.client.base_url.join("/v1/datasets/tiny/forecast")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda horizon: httpx.get(url, params={"horizon": horizon}, trust_env=False), range(20, 60))
        )
    assert {item.status_code for item in answers} == {200}
    assert [item.json()["horizon"] for item in answers] == list(range(20, 60))
