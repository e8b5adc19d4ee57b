from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from forecast.config.training import PromotionPolicy
from forecast.evaluation.guards import Guard
from forecast.evaluation.night import NightRecord, judge
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    import httpx

    from forecast.evaluation.scores import Evidence
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served

OBSERVATIONS, NEEDS, FORECAST = (f"/v1/datasets/tiny/{noun}" for noun in ("observations", "requirements", "forecast"))
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# --- observations -----------------------------------------------------------------------------------------------------


def test_rows_are_read_back_as_they_are_stored_in_every_format(served: Served) -> None:
    stored = served.home.dataset("tiny").observations.read(version=0)
    answer = served.client.get(OBSERVATIONS).json()
    assert (answer["rows"], answer["truncated"], answer["data_version"]) == (800, False, 0)
    for one in answer["series"]:
        part = stored.filter(series=one["series"])
        assert [at(time) for time in one["time"]] == part["time"].to_list()
        assert one["values"] == part.select("load", "price", "wind").to_dict(as_series=False)
    arrow = pl.read_ipc_stream(io.BytesIO(served.client.get(OBSERVATIONS, headers={"accept": ARROW}).content))
    parquet = pl.read_parquet(io.BytesIO(served.client.get(OBSERVATIONS, headers={"accept": PARQUET}).content))
    csv = pl.read_csv(io.BytesIO(served.client.get(OBSERVATIONS, headers={"accept": "text/csv"}).content))
    assert arrow.equals(stored)
    assert parquet.equals(stored)
    assert csv["load"].to_list() == stored["load"].to_list()


def test_rows_are_chosen_by_series_channel_and_time(served: Served) -> None:
    query = {"series": "west", "channels": "price", "start": "2024-01-02T00:00:00Z", "end": "2024-01-02T03:00:00Z"}
    answer = served.client.get(OBSERVATIONS, params=query | {"tz": "Asia/Kolkata"})
    (one,) = answer.json()["series"]
    assert (one["series"], list(one["values"])) == ("west", ["price"])
    assert one["time"] == [f"2024-01-02T0{hour}:30:00+05:30" for hour in (5, 6, 7)]
    again = served.client.get(OBSERVATIONS, params=query | {"tz": "Asia/Kolkata"}, headers={"If-None-Match": "*"})
    assert again.status_code == 304
    newest = served.client.get(OBSERVATIONS, params={"limit": 3}).json()
    assert (newest["rows"], newest["truncated"]) == (3, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"series": "nobody"}, 404, "series.unknown"),
        ({"channels": "nothing"}, 404, "channel.unknown"),
        ({"start": "yesterday"}, 422, "start.malformed"),
        ({"end": "2024-01-01"}, 422, "end.malformed"),
        ({"start": "2024-01-02T00:00:00Z", "end": "2024-01-01T00:00:00Z"}, 422, "range.empty"),
        ({"limit": "0"}, 422, "limit.out_of_range"),
        ({"stat": "1"}, 422, "parameter.unknown"),
        ({"tz": "Mars"}, 422, "tz.unknown"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused(served: Served, query: dict[str, str], status: int, code: str) -> None:
    refused = served.client.get(OBSERVATIONS, params=query)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_without_rows_the_answer_says_what_to_run(
    make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client]
) -> None:
    refused = serve(make_home()).get(OBSERVATIONS)
    assert (refused.status_code, refused.json()["code"]) == (503, "history.empty")


# --- requirements -----------------------------------------------------------------------------------------------------


def test_what_a_forecast_needs_is_enough_for_it(served: Served) -> None:
    needed = served.client.get(NEEDS).json()
    assert at(needed["origin"]) == served.issuance.origin
    history = needed["history"]
    assert at(history["start"]) == served.issuance.origin - timedelta(hours=48)
    assert at(history["end"]) == served.issuance.origin - timedelta(hours=1)
    assert (history["rows"], history["channels"], needed["future"]) == (48, ["load", "price", "wind"], None)
    assert (needed["series"], needed["lacking"], needed["data_version"]) == (["east", "west"], [], 0)
    rows = served.client.get(OBSERVATIONS, params={"start": history["start"], "end": needed["origin"]}).json()["series"]
    sent = {"start": history["start"], "series": {one["series"]: one["values"] for one in rows}}
    made = served.client.post("/v1/forecasts", json={"dataset": "tiny", "history": sent}).json()
    assert made["forecasts"] == served.get().json()["forecasts"]


def test_required_values_that_are_not_stored_are_listed(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crown: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    channels = tiny_document["datasets"]["tiny"]["channels"]
    channels["plan"] = {"role": "future", "fill": "forward"}
    rows = tiny_rows().with_columns(plan=pl.lit(1.0))
    newest = rows["time"].max()
    assert isinstance(newest, datetime)
    gap = (pl.col("site") == "west") & (pl.col("time") > newest - timedelta(hours=5))
    installation = make_home(rows.with_columns(load=pl.when(~gap).then("load")), document=tiny_document)
    ingest(installation.dataset("tiny"))
    crown(installation)
    needed = serve(installation).get(NEEDS, params={"horizon": 30}).json()
    origin = at(needed["origin"])
    assert (needed["future"]["channels"], needed["future"]["rows"]) == (["plan"], 48)
    assert at(needed["future"]["end"]) == origin + timedelta(hours=47)
    lacking = {(one["series"], one["channel"]): one for one in needed["lacking"]}
    assert set(lacking) == {("west", "load"), ("east", "plan"), ("west", "plan")}
    assert lacking["west", "load"]["count"] == 5
    assert at(lacking["west", "load"]["last"]) == origin - timedelta(hours=1)
    assert (lacking["east", "plan"]["count"], at(lacking["east", "plan"]["first"])) == (48, origin)


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_the_evidence_of_the_decision(
    served: Served, crowned: Callable[..., Manifest], make_evidence: Callable[..., Evidence]
) -> None:
    models = served.client.get("/v1/models/tiny").json()
    assert (models["champion"]["model_version"], models["previous"], models["nights"]) == ("repeat_last-1", None, [])
    crowned(served.home, "repeat_last-2")
    champion, challenger = make_evidence("repeat_last-2", 1.0), make_evidence("worse-1", 1.4)
    policy = PromotionPolicy()
    verdict = judge([challenger], champion, policy, "")
    night = NightRecord(
        dataset="tiny", recorded_at=datetime(2024, 2, 1, tzinfo=UTC), data_version=0, data_digest="", origins=200,
        holdout_from=datetime(2024, 1, 20, tzinfo=UTC), holdout_until=datetime(2024, 1, 30, tzinfo=UTC),
        candidates=(challenger,), champion_evidence=champion, baselines=(), policy=policy, unfit="", verdict=verdict,
        champion="repeat_last-2", tracking_run="", failures={"informer": "in /a/folder"},
    )  # fmt: skip
    served.home.ledger.nights.add(night)
    models = served.client.get("/v1/models/tiny", params={"nights": 3}).json()
    assert [one["model_version"] for one in models["versions"]] == ["repeat_last-2", "repeat_last-1"]
    assert (models["previous"]["model_version"], models["challenger"]) == ("repeat_last-1", "worse-1")
    (one,) = models["nights"]
    assert (one["promoted"], one["why"], one["failures"]) == (False, verdict.sentence, ["informer"])
    assert [scored["model_version"] for scored in one["leaderboard"]] == ["repeat_last-2", "worse-1"]
    assert one["leaderboard"][0]["pinball"] == pytest.approx(champion.pinball)
    assert [guard["name"] for guard in one["guards"]] == [guard.name for guard in verdict.guards]
    assert all(isinstance(guard, Guard) for guard in verdict.guards)
    assert served.client.get("/v1/models", params={"nights": 3}).json() == {"models": [models]}
    assert served.client.get("/v1/models/tinny").json()["code"] == "dataset.unknown"


# --- forecasts at a lead, by a model, of a range ----------------------------------------------------------------------


@pytest.fixture
def issued(served: Served, tiny_rows: Callable[..., pl.DataFrame]) -> list[Any]:
    """Five forecasts, an hour apart; the third was issued again with another model."""
    made = [served.issuance]
    for hours in range(401, 405):
        tiny_rows(hours).write_csv(served.home.home.path / "rows.csv")
        ingest(served.home.dataset("tiny"))
        made.append(issue(served.home.dataset("tiny"))[0])
    return made


def test_the_rolling_forecast_is_what_was_issued_a_lead_before(
    served: Served, issued: list[Any], crowned: Callable[..., Manifest]
) -> None:
    answer = served.get(lead_time="3h", series="west", channels="price").json()
    (line,) = answer["forecasts"]
    assert (answer["lead"], answer["quantiles"]) == (3, [0.1, 0.5, 0.9])
    assert [point["forecast_id"] for point in line["points"]] == [one.forecast_id for one in issued]
    for point, one in zip(line["points"], issued, strict=True):
        assert at(point["time"]) == one.origin + timedelta(hours=2)
        stored = served.home.dataset("tiny").forecasts.read(one.forecast_id, one.issued_at)
        row = stored.filter(series="west", channel="price", lead=3)
        assert point["mean"] == row["mean"].item()
        assert list(point["quantiles"].values()) == row["quantiles"].item().to_list()
    crowned(served.home, "repeat_last-2", bias=0.3)
    again, is_new = issue(served.home.dataset("tiny"))
    assert is_new
    newest = served.get(lead_time="3h").json()["forecasts"][0]["points"][-1]
    assert (newest["forecast_id"], newest["model_version"]) == (again.forecast_id, "repeat_last-2")
    before = served.get(lead_time="3h", model="repeat_last-1").json()["forecasts"][0]["points"][-1]
    assert before["forecast_id"] == issued[-1].forecast_id
    first = served.get(lead_time="3h", as_of=issued[0].issued_at.isoformat()).json()["forecasts"][0]["points"]
    assert [point["forecast_id"] for point in first] == [issued[0].forecast_id]


def test_a_range_of_the_rolling_forecast_comes_in_every_format(served: Served, issued: list[Any]) -> None:
    start = issued[1].origin + timedelta(hours=2)
    query = {"lead_time": "3h", "start": start.isoformat(), "end": (start + timedelta(hours=2)).isoformat()}
    points = served.get(**query).json()["forecasts"][0]["points"]
    assert [at(point["time"]) for point in points] == [start, start + timedelta(hours=1)]
    answer = served.client.get(FORECAST, params=query, headers={"accept": PARQUET})
    rows = pl.read_parquet(io.BytesIO(answer.content))
    assert rows.filter(series="east", channel="load")["mean"].to_list() == [point["mean"] for point in points]
    headers = {"If-None-Match": answer.headers["etag"], "accept": PARQUET}
    again = served.client.get(FORECAST, params=query, headers=headers)
    assert again.status_code == 304


def test_a_range_and_a_model_choose_steps_of_the_forecast(
    served: Served, crowned: Callable[..., Manifest], wait_until: Callable[..., None]
) -> None:
    whole = served.get().json()["forecasts"][0]["points"]
    part = served.get(start=whole[3]["time"], end=whole[7]["time"]).json()["forecasts"][0]["points"]
    assert part == whole[3:7]
    late = served.get(start=whole[20]["time"], horizon=30).json()["forecasts"][0]["points"]
    assert [point["lead"] for point in late] == list(range(21, 31))
    crowned(served.home, "repeat_last-2", bias=0.3)
    issue(served.home.dataset("tiny"))
    wait_until(lambda: served.get().json()["model_version"] == "repeat_last-2")
    assert served.get(model="repeat_last-1").json()["forecast_id"] == served.issuance.forecast_id
    for query, status, code in (
        ({"model": "nobody"}, 404, "forecast.none_by_model"),
        ({"start": "2030-01-01T00:00:00Z"}, 422, "range.empty"),
        ({"end": "2020-01-01T00:00:00Z"}, 422, "range.empty"),
        ({"start": "soon"}, 422, "start.malformed"),
        ({"lead_time": "soon"}, 422, "lead_time.malformed"),
        ({"lead_time": "90m"}, 422, "lead_time.not_a_step"),
        ({"lead_time": "100d"}, 404, "forecast.none_at_lead"),
        ({"lead_time": "999999w"}, 422, "lead_time.out_of_range"),
        ({"lead_time": "3h", "horizon": "5"}, 422, "parameter.not_with_lead_time"),
        ({"lead_time": "3h", "start": "2030-01-01T00:00:00Z"}, 404, "forecast.none_at_lead"),
    ):
        refused = served.get(**query)
        assert (refused.status_code, refused.json()["code"]) == (status, code), (query, refused.text)


@pytest.mark.parametrize("media", [ARROW, PARQUET])
def test_the_latest_forecast_comes_as_a_table(served: Served, media: str) -> None:
    answer = served.client.get(FORECAST, headers={"accept": media})
    rows = (pl.read_ipc_stream if media == ARROW else pl.read_parquet)(io.BytesIO(answer.content))
    lines = served.get().json()["forecasts"]
    assert rows["mean"].to_list() == [point["mean"] for line in lines for point in line["points"]]
    assert answer.headers["forecast-id"] == served.issuance.forecast_id
    assert rows.schema["time"] == pl.Datetime("us", "UTC")
