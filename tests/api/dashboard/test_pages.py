"""Texts and figures of all pages but the forecast's, as the server renders them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from forecast.clock import SystemClock
from forecast.config.alerts import AlertKind
from forecast.monitoring.alerts import AlertFinding
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served


def words(answer: httpx.Response) -> str:
    """Return a page's text without its elements."""
    assert answer.status_code == 200, answer.text
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def drawn(answer: httpx.Response, name: str) -> dict[str, Any]:
    """Return a figure of a page."""
    found = re.search(rf'id="{name}-drawn">(.*?)</script>', answer.text)
    assert found
    return dict(json.loads(found[1]))


@pytest.fixture
def client(busy: Installation, serve: Callable[[Installation], httpx.Client]) -> httpx.Client:
    return serve(busy)


def test_accuracy_shows_error_and_coverage(client: httpx.Client) -> None:
    answer = client.get("/accuracy", params={"window": "all", "channel": "price"})
    text = words(answer)
    rest = client.get("/v1/datasets/tiny/accuracy", params={"by": "all", "channel": "price"}).json()["rows"][0]
    assert f"the 80% band held {rest['coverage']:.0%} of {rest['count']} values" in text
    assert len(drawn(answer, "errors")["data"][0]["y"]) == 12  # the observed steps
    assert "No scores yet" in words(client.get("/accuracy", params={"window": "7d"}))


def test_calibration_is_read_from_the_forecasts_themselves(client: httpx.Client) -> None:
    answer = client.get("/accuracy/detail", params={"window": "all"})
    assert "From 1 forecast spread" in words(answer)
    _, seen = drawn(answer, "calibration")["data"]
    assert seen["x"] == [0.1, 0.5, 0.9]
    assert seen["y"] == sorted(seen["y"])
    assert len([value for value in drawn(answer, "hours")["data"][0]["y"] if value is not None]) == 12


def test_models_show_verdict_guards_failures_and_champions(client: httpx.Client) -> None:
    text = words(client.get("/models"))
    for expected in (
        "linear-1 replaces repeat_last-2", "★ champion", "challenger",
        "repeat_last, itransformer do not beat the best baseline",
        "s_mamba could not be trained: out of memory", "✓ finite", "linear-1 against repeat_last-2",
        "Restore", "This night in MLflow",
    ):  # fmt: skip
        assert expected in text


def test_the_address_of_mlflow_can_be_configured(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'href="http://127.0.0.1:5000/#/runs/0123"' in client.get("/models").text
    monkeypatch.setenv("FORECAST_MLFLOW_UI", "https://mlflow.example/ui/")
    assert 'href="https://mlflow.example/ui/#/runs/0123"' in client.get("/models").text
    monkeypatch.setenv("FORECAST_MLFLOW_UI", "javascript:alert(1)")
    assert "javascript:" not in client.get("/models").text


def test_runs_show_the_schedule_and_the_result_of_the_night(client: httpx.Client) -> None:
    answer = client.get("/runs")
    text = words(answer)
    assert "The last night went well: nightly of" in text
    assert "1 run failed in the last 14 days" in text
    assert "No worker host is running" in text
    assert len(re.findall(r'class="mark (?:succeeded|failed)" href="/runs/\d+"', answer.text)) == 3
    assert answer.text.count("due at 02:30") >= 7


def test_an_unknown_run_gets_an_error_page(client: httpx.Client) -> None:
    answer = client.get("/runs/999")
    assert answer.status_code == 404
    assert "run.unknown" in answer.text


def test_data_show_gaps_freshness_receipts_and_quarantine(client: httpx.Client) -> None:
    text = words(client.get("/data"))
    for expected in ("17 Jan: 0% missing", "Quarantine", "1 ×", "no time at all", "Recent ingestions", "▲"):
        assert expected in text


def test_a_gap_is_seen_on_its_day(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    rows = tiny_rows()
    day = pl.col("time").dt.date() == rows["time"].max().date() - timedelta(days=3)  # type: ignore[union-attr]
    home = make_home(rows.with_columns(pl.when(day).then(None).otherwise("price").alias("price")))
    ingest(home.dataset("tiny"))
    text = words(serve(home).get("/data"))
    assert text.count("100% missing") == 1


@pytest.mark.parametrize(
    ("path", "heading"),
    [("/accuracy", "No scores yet"), ("/models", "No night yet"), ("/data", "No rows yet")],
)
def test_before_anything_has_happened_a_page_says_what_to_do(
    make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client], path: str, heading: str
) -> None:
    assert heading in words(serve(make_home()).get(path))


def test_a_stale_forecast_is_called_so(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    tiny_document["datasets"]["tiny"]["stale_after"] = "1s"
    home = make_home(tiny_rows(), tiny_document)
    ingest(home.dataset("tiny"))
    crowned(home)
    issue(home.dataset("tiny"))
    client = serve(home)
    while "This forecast is stale" not in (page := words(client.get("/"))):
        assert "fresh" in page


def test_the_history_is_downsampled_to_what_a_figure_can_show(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    home = make_home(tiny_rows(8760))
    ingest(home.dataset("tiny"))
    client = serve(home)
    query = {"series": "east", "channel": "load", "start": "2024-01-01T00:00:00"}
    whole = client.get("/history", params=query | {"end": "2025-01-01T00:00:00"}).json()
    assert whole["downsampled"]
    assert len(whole["times"]) <= 1502
    day = client.get("/history", params=query | {"end": "2024-01-02T00:00:00"}).json()
    assert (day["downsampled"], len(day["values"])) == (False, 24)


def test_several_data_sets_have_a_picker(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], serve: Callable[[Installation], httpx.Client]
) -> None:
    tiny_document["datasets"]["other"] = tiny_document["datasets"]["tiny"]
    client = serve(make_home(None, tiny_document))
    for path in ("/", "/accuracy", "/models", "/runs", "/data"):
        page = client.get(path, params={"dataset": "other"}).text
        assert '<option value="other" selected>' in page
        assert 'href="/data?dataset=other"' in page


def test_a_download_equals_the_rest_response(served: Served) -> None:
    rest = served.client.get("/v1/datasets/tiny/forecast", headers={"Accept": "text/csv"}).text
    answer = served.client.get("/download")
    assert answer.text == rest
    assert answer.headers["content-disposition"].endswith('.csv"')


@pytest.mark.slow
@pytest.mark.parametrize("page", ["/", "/accuracy", "/models", "/runs", "/data"])
def test_an_open_alert_is_on_every_page_until_it_is_resolved(
    busy: Installation, client: httpx.Client, page: str
) -> None:
    drifted = AlertFinding(AlertKind.DRIFT, "load", "load <b>drifted</b> away")
    busy.ledger.alerts.update("tiny", [drifted], SystemClock().now())
    answer = client.get(page)
    assert "load &lt;b&gt;drifted&lt;/b&gt; away" in answer.text
    busy.ledger.alerts.update("tiny", [], SystemClock().now())
    assert "drifted" not in client.get(page).text
