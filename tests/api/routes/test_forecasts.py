from __future__ import annotations

import csv
import io
import math
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import sqlalchemy as sa

from forecast.ledger.issuance import ISSUANCES
from forecast.runtime.model import load
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recursion import extend
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served


def points(answer: httpx.Response, series: str = "east", channel: str = "load") -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    lines = answer.json()["forecasts"]
    return next(line["points"] for line in lines if (line["series"], line["channel"]) == (series, channel))


def test_the_latest_forecast_says_where_it_comes_from(served: Served) -> None:
    answer = served.get().json()
    issuance = served.issuance
    assert answer["forecast_id"] == issuance.forecast_id
    assert datetime.fromisoformat(answer["issued_at"]) == issuance.issued_at
    assert datetime.fromisoformat(answer["origin"]) == issuance.origin
    names = (
        "data_version",
        "model_name",
        "model_version",
        "fallback_reason",
        "stale",
        "frequency",
        "horizon_trained",
    )
    assert [answer[name] for name in names] == [0, "repeat_last", "repeat_last-1", None, False, "1h", 24]
    assert answer["imputed_fraction"] == issuance.imputed_fraction
    assert issuance.newest_observed is not None
    assert datetime.fromisoformat(answer["newest_observed"]) == issuance.newest_observed
    assert 0 <= answer["age"] < 60


def test_the_forecast_has_its_provenance(served: Served) -> None:
    provenance = served.issuance.provenance
    assert provenance is not None
    answered = served.get(tz="Asia/Tokyo").json()["provenance"]
    assert answered == provenance.model_dump(mode="json")
    assert answered["data_recorded_at"].endswith("Z")
    assert (answered["hindsight"], answered["covariates_version"], answered["provider"]) == (
        False,
        None,
        "CPUExecutionProvider",
    )


def test_a_forecast_of_an_earlier_release_has_no_provenance(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    issue(home.dataset("tiny"))
    with home.ledger._database._engine.begin() as connection:
        connection.execute(sa.update(ISSUANCES).values(provenance=None))
    answer = serve(home).get("/v1/datasets/tiny/forecast").json()
    assert answer["provenance"] is None


def test_a_forecast_made_for_a_past_instant_is_not_served(
    home: Installation, serve: Callable[[Installation], httpx.Client], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    moment = datetime.now(UTC)
    tiny_rows(430).write_csv(home.home.path / "rows.csv")
    ingest(home.dataset("tiny"))
    issued, _ = issue(home.dataset("tiny"))
    issue(home.dataset("tiny"), moment)
    client = serve(home)
    assert client.get("/v1/datasets/tiny/forecast").json()["forecast_id"] == issued.forecast_id
    then = client.get("/v1/datasets/tiny/forecast", params={"as_of": moment.isoformat()})
    assert (then.status_code, then.json()["code"]) == (404, "forecast.none_then")
    dataset = client.get("/v1/datasets/tiny").json()
    assert dataset["latest_forecast"]["forecast_id"] == issued.forecast_id


def test_every_series_and_channel_has_every_step(served: Served) -> None:
    answer = served.get().json()
    named = [(line["series"], line["channel"], line["unit"]) for line in answer["forecasts"]]
    assert named == [(s, *c) for s in ("east", "west") for c in (("load", "MW"), ("price", "EUR/MWh"))]
    for line in answer["forecasts"]:
        assert [point["lead"] for point in line["points"]] == list(range(1, 25))
        for point in line["points"]:
            assert datetime.fromisoformat(point["time"]) == served.issuance.origin + timedelta(hours=point["lead"] - 1)
            values = list(point["quantiles"].values())
            assert list(point["quantiles"]) == ["0.1", "0.5", "0.9"]
            assert values == sorted(values)
            assert all(math.isfinite(value) for value in (*values, point["mean"]))
            assert point["recursive"] is False


def test_the_numbers_are_those_in_the_lake(served: Served) -> None:
    rows = served.home.dataset("tiny").forecasts.read(served.issuance.forecast_id, served.issuance.issued_at)
    for line in served.get().json()["forecasts"]:
        stored = rows.filter(series=line["series"], channel=line["channel"])
        assert [point["mean"] for point in line["points"]] == stored["mean"].to_list()
        assert [list(point["quantiles"].values()) for point in line["points"]] == stored["quantiles"].to_list()


def test_a_shorter_horizon_is_a_prefix(served: Served) -> None:
    whole = served.get()
    for horizon in (1, 6, 23):
        assert points(served.get(horizon=horizon)) == points(whole)[:horizon]


def test_steps_beyond_the_trained_horizon_continue_the_issued_ones_and_are_flagged(served: Served) -> None:
    longer = points(served.get(horizon=100), "west", "price")
    assert longer[:24] == points(served.get(), "west", "price")
    assert [point["recursive"] for point in longer] == [False] * 24 + [True] * 76
    assert [point["lead"] for point in longer] == list(range(1, 101))
    config, table = served.home.config.datasets["tiny"], served.home.dataset("tiny").observations
    model = load(served.home.home.models / served.issuance.model_folder)
    expected = extend(model, clean(table.read(version=0), config), config, 100)
    assert [point["mean"] for point in longer] == pytest.approx(expected.mean[1, :, 1].tolist())
    assert [point["quantiles"]["0.9"] for point in longer] == pytest.approx(expected.quantiles[1, :, 1, 2].tolist())


def test_a_longer_forecast_is_made_from_the_rows_it_was_issued_from(
    served: Served, tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    before = points(served.get(horizon=40))
    tiny_rows(hours=410, seed=5).write_csv(served.home.home.path / "rows.csv")
    assert ingest(served.home.dataset("tiny")).data_version == 1
    assert points(served.get(horizon=60))[:40] == before


def test_the_longest_horizon_is_answered(served: Served) -> None:
    assert len(points(served.get(horizon=10_000, series="east", channels="load"))) == 10_000


def test_names_and_levels_are_given_by_repetition_or_commas(served: Served) -> None:
    path = "/v1/datasets/tiny/forecast"
    by_comma = served.client.get(f"{path}?series=west,east&channels=price&quantiles=0.9,0.10").json()
    repeated = served.client.get(f"{path}?series=west&series=east&channels=price&quantiles=0.9&quantiles=0.1").json()
    assert by_comma["forecasts"] == repeated["forecasts"]
    assert [(line["series"], line["channel"]) for line in by_comma["forecasts"]] == [
        ("west", "price"),
        ("east", "price"),
    ]
    assert list(by_comma["forecasts"][0]["points"][0]["quantiles"]) == ["0.1", "0.9"]


def test_times_are_in_the_requested_zone(served: Served) -> None:
    first_time = points(served.get(tz="Asia/Kolkata", horizon=2))[0]["time"]
    assert first_time.endswith("+05:30")
    assert datetime.fromisoformat(first_time) == served.issuance.origin
    assert points(served.get(horizon=2))[0]["time"].endswith("Z")


def test_without_a_forecast_the_answer_says_what_to_run(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    answer = serve(home).get("/v1/datasets/tiny/forecast")
    assert (answer.status_code, answer.json()["code"]) == (503, "forecast.none_yet")
    assert "forecast forecast tiny" in answer.json()["remedy"]


def test_as_of_gives_what_was_known_then(
    served: Served, crowned: Callable[..., Manifest], wait_until: Callable[..., None]
) -> None:
    crowned(served.home, "repeat_last-2", bias=0.3)
    second, is_new = issue(served.home.dataset("tiny"))
    assert is_new
    wait_until(lambda: served.get().json()["forecast_id"] == second.forecast_id)
    first = served.issuance
    between = first.issued_at + (second.issued_at - first.issued_at) / 2
    then = served.get(as_of=between.isoformat()).json()
    assert (then["forecast_id"], then["model_version"]) == (first.forecast_id, "repeat_last-1")
    assert then["age"] == int((between - first.issued_at).total_seconds())
    assert served.get(as_of=second.issued_at.isoformat()).json()["forecast_id"] == second.forecast_id
    assert len(points(served.get(as_of=between.isoformat(), horizon=50))) == 50
    # A client that forgot to encode the plus sign sends a space.
    lost_plus = f"/v1/datasets/tiny/forecast?as_of={between.isoformat()}"
    assert served.client.get(lost_plus).json()["forecast_id"] == first.forecast_id


def test_before_the_first_forecast_nothing_was_known(served: Served) -> None:
    answer = served.get(as_of="2020-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()["code"]) == (404, "forecast.none_then")


def test_a_new_forecast_is_swapped_in_without_a_failed_request(
    served: Served, crowned: Callable[..., Manifest]
) -> None:
    before = served.get()
    crowned(served.home, "repeat_last-2", bias=0.3)
    second, _ = issue(served.home.dataset("tiny"))
    seen = set()
    while second.forecast_id not in seen:
        answer = served.get()
        assert answer.status_code == 200
        seen.add(answer.json()["forecast_id"])
    assert seen <= {served.issuance.forecast_id, second.forecast_id}
    assert served.get().headers["etag"] != before.headers["etag"]


def test_a_client_that_has_the_answer_gets_304(served: Served) -> None:
    first = served.get(horizon=6)
    etag = first.headers["etag"]
    for given in (etag, f'"other", {etag}', "*", etag.removeprefix("W/")):
        again = served.client.get(first.url, headers={"If-None-Match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert served.client.get(first.url, headers={"If-None-Match": '"other"'}).status_code == 200
    assert served.get(horizon=5).headers["etag"] != etag
    assert first.headers["cache-control"] == "no-cache"


def test_csv_has_the_same_numbers(served: Served) -> None:
    query = {"series": "west", "channels": "price", "horizon": 30, "quantiles": "0.1,0.9"}
    answer = served.client.get("/v1/datasets/tiny/forecast", params=query, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["forecast-id"] == served.issuance.forecast_id
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    expected = points(served.get(**query), "west", "price")
    assert [float(row["q90"]) for row in rows] == [point["quantiles"]["0.9"] for point in expected]
    assert [(row["time"], row["recursive"] == "true") for row in rows] == [
        (p["time"], p["recursive"]) for p in expected
    ]
    assert "q50" not in rows[0]


def test_age_and_staleness_follow_the_clock_of_the_data_set(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
    wait_until: Callable[..., None],
) -> None:
    start = datetime(2024, 1, 15, tzinfo=UTC)
    tiny_document["datasets"]["tiny"] |= {
        "source": {"kind": "replay", "path": "rows.parquet", "start": start.replace(tzinfo=None)},
        "stale_after": "6h",
    }
    installation = make_home(document=tiny_document)
    tiny_rows().write_parquet(installation.home.path / "rows.parquet")
    ingest(installation.dataset("tiny"))
    crowned(installation)
    issue(installation.dataset("tiny"))
    client = serve(installation)

    def age_and_staleness() -> tuple[int, bool]:
        answer = client.get("/v1/datasets/tiny/forecast").json()
        return answer["age"], answer["stale"]

    assert age_and_staleness() == (0, False)
    fresh = client.get("/v1/datasets/tiny/forecast").headers["etag"]
    for hours, stale in ((5, False), (6, True)):
        installation.ledger.clocks.move("tiny", start + timedelta(hours=hours))
        wait_until(lambda: age_and_staleness()[0] == hours * 3600)  # noqa: B023 - called before the loop goes on
        assert age_and_staleness()[1] is stale
    assert client.get("/v1/datasets/tiny/forecast").headers["etag"] != fresh
    readiness = client.get("/readyz")
    assert readiness.status_code == 200
    assert readiness.json()["status"] == "degraded"
    assert readiness.json()["datasets"][0]["reasons"] == ["forecast.stale"]


def test_a_name_with_a_comma_is_one_name(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    names = ("a,b", "c")
    installation = make_home(tiny_rows(series=names))
    ingest(installation.dataset("tiny"))
    crowned(installation, series=names)
    issue(installation.dataset("tiny"))
    client = serve(installation)
    answer = client.get("/v1/datasets/tiny/forecast", params={"series": "a,b", "channels": "load"})
    assert [line["series"] for line in answer.json()["forecasts"]] == ["a,b"]


def test_a_damaged_forecast_is_not_served_and_the_one_before_is(
    served: Served, wait_until: Callable[..., None]
) -> None:
    table = served.home.dataset("tiny").forecasts
    rows = table.read(served.issuance.forecast_id, served.issuance.issued_at)
    spoilt = rows.with_columns(
        forecast_id=pl.lit("spoilt"), mean=pl.when(pl.col("lead") == 3).then(float("nan")).otherwise("mean")
    )
    table.append(spoilt)
    values = {name: getattr(served.issuance, name) for name in served.issuance.__slots__} | {"forecast_id": "spoilt"}
    served.home.ledger.issuances.add(type(served.issuance)(**values))
    wait_until(lambda: served.client.get("/readyz").json()["status"] == "degraded")
    assert served.client.get("/readyz").json()["datasets"][0]["reasons"] == ["forecast.damaged"]
    assert served.get().json()["forecast_id"] == served.issuance.forecast_id


def test_without_its_model_a_forecast_is_served_but_not_prolonged(served: Served) -> None:
    shutil.rmtree(served.home.home.models / served.issuance.model_folder)
    assert len(points(served.get(horizon=24))) == 24
    answer = served.get(horizon=25)
    assert (answer.status_code, answer.json()["code"]) == (503, "forecast.not_extendable")
    assert str(served.home.home.path) not in answer.text


def test_a_forecast_that_comes_out_differently_is_not_prolonged(
    served: Served, crowned: Callable[..., Manifest]
) -> None:
    version = served.issuance.model_version
    shutil.rmtree(served.home.home.models / version)
    crowned(served.home, version, bias=1.0)  # the files are replaced under its name
    answer = served.get(horizon=25)
    assert (answer.status_code, answer.json()["code"]) == (503, "forecast.not_reproducible")


def test_zones_with_two_offsets_show_both_instants_of_the_doubled_hour(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    # The forecast crosses 2024-11-03 06:00 UTC, when New York turns its clocks back.
    start = datetime(2024, 11, 2, 18, tzinfo=UTC) - timedelta(hours=200)
    installation = make_home(tiny_rows(hours=200, start=start))
    ingest(installation.dataset("tiny"))
    crowned(installation)
    issue(installation.dataset("tiny"))
    answer = serve(installation).get("/v1/datasets/tiny/forecast", params={"tz": "America/New_York"})
    times = [point["time"] for point in points(answer)]
    assert "2024-11-03T01:00:00-04:00" in times
    assert "2024-11-03T01:00:00-05:00" in times
    zone = ZoneInfo("America/New_York")
    assert {datetime.fromisoformat(time).astimezone(zone).utcoffset() for time in times} == {
        timedelta(hours=-4), timedelta(hours=-5),
    }  # fmt: skip


def test_after_a_change_of_frequency_no_wrong_times_are_served(
    served: Served,
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    serve: Callable[[Installation], httpx.Client],
) -> None:
    tiny_document["datasets"]["tiny"]["frequency"] = "30m"
    client = serve(make_home(document=tiny_document))
    answer = client.get("/v1/datasets/tiny/forecast")
    assert (answer.status_code, answer.json()["code"]) == (503, "forecast.champion_outdated")
    assert "forecast train tiny" in answer.json()["remedy"]
    readiness = client.get("/readyz")
    assert readiness.status_code == 503
    assert "forecast.champion_outdated" in readiness.json()["datasets"][0]["reasons"]
    assert served.get().status_code == 200


def test_a_damaged_table_is_reported_when_the_service_starts(
    home: Installation, serve: Callable[[Installation], httpx.Client], wait_until: Callable[..., None]
) -> None:
    issue(home.dataset("tiny"))
    file = min((home.home.lake / "tiny" / "observations").glob("month=*/*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    client = serve(home)
    wait_until(lambda: "lake.corrupt" in client.get("/readyz").json()["datasets"][0]["reasons"])
    assert client.get("/v1/datasets/tiny/forecast").status_code == 200  # the last good one
