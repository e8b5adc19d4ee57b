from __future__ import annotations

import asyncio
import csv
import io
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from api.state.champions import LoadedChampions
from forecast.runtime.model import load
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean

if TYPE_CHECKING:
    import httpx

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from tests.api.conftest import Served

PATH = "/v1/forecasts"
LOOKBACK = 48


@pytest.fixture
def history(served: Served) -> dict[str, Any]:
    """The newest rows of the home's own lake, as columns on the grid."""
    rows = served.home.dataset("tiny").observations.read(version=0)
    newest = rows.filter(pl.col("time") >= rows["time"].max() - timedelta(hours=LOOKBACK - 1))
    start = newest["time"].min()
    assert isinstance(start, datetime)
    return {
        "start": start.isoformat(),
        "series": {
            name: {channel: part[channel].to_list() for channel in ("load", "price", "wind")}
            for (name,), part in newest.group_by("series", maintain_order=True)
        },
    }


def ask(client: httpx.Client, history: Any, **more: Any) -> httpx.Response:
    return client.post(PATH, json={"dataset": "tiny", "history": history} | more)


def test_a_forecast_of_the_newest_rows_is_the_issued_one(served: Served, history: dict[str, Any]) -> None:
    answer = ask(served.client, history)
    assert answer.status_code == 200, answer.text
    made, issued = answer.json(), served.get().json()
    assert made["forecasts"] == issued["forecasts"]
    same = ("dataset", "origin", "model_name", "model_version", "imputed_fraction", "newest_observed", "quantiles")
    assert [made[name] for name in same] == [issued[name] for name in same]
    assert (made["data_version"], made["age"], made["stale"], made["recursive"]) == (None, 0, False, False)
    assert answer.headers["cache-control"] == "no-store"


def test_steps_beyond_the_trained_horizon_are_made_and_flagged(served: Served, history: dict[str, Any]) -> None:
    made = ask(served.client, history, horizon=60).json()
    config, model = served.home.config.datasets["tiny"], served.home.home.models / served.issuance.model_folder
    panel = clean(served.home.dataset("tiny").observations.read(version=0), config)
    expected = extend(load(model), panel, config, 60)
    for s in range(2):
        for c in range(2):
            points = made["forecasts"][2 * s + c]["points"]
            assert [point["mean"] for point in points] == pytest.approx(expected.mean[s, :, c].tolist(), rel=1e-5)
            assert [point["recursive"] for point in points] == [False] * 24 + [True] * 36
            for point in points:
                values = list(point["quantiles"].values())
                assert values == sorted(values)
                assert all(math.isfinite(value) for value in values)
                assert c or min(values) >= 0
    assert made["recursive"] is True


def test_levels_and_zone_are_those_that_are_asked_for(served: Served, history: dict[str, Any]) -> None:
    made = ask(served.client, history, quantiles=[0.9, 0.1], tz="Asia/Kolkata", horizon=2).json()
    point = made["forecasts"][0]["points"][0]
    assert list(point["quantiles"]) == ["0.1", "0.9"]
    assert point["time"].endswith("+05:30")


def test_rows_may_come_as_they_would_be_pushed(served: Served, history: dict[str, Any]) -> None:
    wanted = ask(served.client, history).json()["forecasts"]
    rows = served.home.dataset("tiny").observations.read(version=0)
    rows = rows.filter(pl.col("time") >= datetime.fromisoformat(history["start"])).rename({"series": "site"})
    pushed = rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S"))
    records = pushed.to_dicts()
    columns = {name: pushed[name].to_list() for name in pushed.columns}
    for given in (records, columns):
        answer = served.client.post(PATH, json={"dataset": "tiny", "rows": given})
        assert answer.status_code == 200, answer.text
        assert answer.json()["forecasts"] == wanted
    for media, body in (
        ("text/csv", pushed.write_csv().encode()),
        ("application/vnd.apache.parquet", written(rows.write_parquet)),
        ("application/vnd.apache.arrow.stream", written(rows.write_ipc_stream)),
    ):
        answer = served.client.post(
            PATH, params={"dataset": "tiny", "quantiles": "0.1,0.5,0.9"}, content=body, headers={"content-type": media}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["forecasts"] == wanted


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def test_every_format_has_the_same_numbers(served: Served, history: dict[str, Any]) -> None:
    wanted = ask(served.client, history, horizon=30).json()
    body = {"dataset": "tiny", "history": history, "horizon": 30}
    read: dict[str, Callable[[bytes], pl.DataFrame]] = {
        "application/vnd.apache.arrow.stream": lambda content: pl.read_ipc_stream(io.BytesIO(content)),
        "application/vnd.apache.parquet": lambda content: pl.read_parquet(io.BytesIO(content)),
    }
    means = [point["mean"] for line in wanted["forecasts"] for point in line["points"]]
    upper = [point["quantiles"]["0.9"] for line in wanted["forecasts"] for point in line["points"]]
    for media, reader in read.items():
        answer = served.client.post(PATH, json=body, headers={"accept": media})
        assert answer.headers["content-type"] == media
        rows = reader(answer.content)
        assert (rows["mean"].to_list(), rows["q90"].to_list()) == (means, upper)
        assert rows["time"][0] == datetime.fromisoformat(wanted["origin"])
        assert answer.headers["forecast-model-version"] == "repeat_last-1"
    answer = served.client.post(PATH, json=body, headers={"accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [float(row["mean"]) for row in rows] == means


def test_an_earlier_champion_may_be_asked(
    served: Served, history: dict[str, Any], crowned: Callable[..., Manifest], wait_until: Callable[..., None]
) -> None:
    before = ask(served.client, history).json()["forecasts"]
    crowned(served.home, "repeat_last-2", bias=0.3)
    wait_until(lambda: ask(served.client, history).json()["model_version"] == "repeat_last-2")
    for model in ("previous", "repeat_last-1"):
        answer = ask(served.client, history, model=model).json()
        assert (answer["model_version"], answer["forecasts"]) == ("repeat_last-1", before)
    assert ask(served.client, history).json()["forecasts"] != before
    refused = ask(served.client, history, model="repeat_last-3")
    assert (refused.status_code, refused.json()["code"]) == (404, "model.unknown")


def test_requests_that_come_together_get_what_they_would_alone(served: Served, history: dict[str, Any]) -> None:
    def moved(by: int) -> dict[str, Any]:
        series = {
            name: {channel: [value + by for value in values] for channel, values in columns.items()}
            for name, columns in history["series"].items()
        }
        return {"start": history["start"], "series": series}

    alone = [ask(served.client, moved(by)).json()["forecasts"] for by in range(24)]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda by: ask(served.client, moved(by)).json()["forecasts"], range(24)))
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert [p["mean"] for p in mine["points"]] == pytest.approx([p["mean"] for p in theirs["points"]])


def test_without_a_champion_the_answer_says_what_to_run(
    make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client]
) -> None:
    refused = ask(serve(make_home()), {"start": "2024-01-01T00:00:00Z", "series": {"east": {"load": [1.0]}}})
    assert (refused.status_code, refused.json()["code"]) == (503, "forecast.no_champion")


def series(value: str = "1.0", rows: int = LOOKBACK, channels: tuple[str, ...] = ("load", "price", "wind")) -> str:
    numbers = ",".join([value] * rows)
    return '{"east": {' + ",".join(f'"{channel}": [{numbers}]' for channel in channels) + "}}"


def body(history: str = "", start: str = "2024-01-15T16:00:00Z", rest: str = "") -> bytes:
    return f'{{"dataset": "tiny", "history": {{"start": "{start}", "series": {history or series()}}}{rest}}}'.encode()


REFUSED = [
    (b"", 422, "body.not_json", ""),
    (b"{", 422, "body.not_json", "line 1"),
    (b"[1]", 422, "body.malformed", ""),
    (b'{"dataset": "\\ud800", "rows": []}', 422, "body.not_json", "line 1 column"),
    (b'{"dataset": "tiny\xff"}', 422, "body.not_json", ""),
    (b'{"dataset": "tiny"}', 422, "body.malformed", "either history or rows"),
    (b'{"rows": []}', 422, "dataset.missing", "dataset"),
    (b'{"dataset": "tinny", "rows": []}', 404, "dataset.unknown", ""),
    (body(rest=', "horizn": 3'), 422, "body.unknown_field", ""),
    (body(rest=', "horizon": 0'), 422, "horizon.out_of_range", "horizon"),
    (body(rest=', "horizon": 1.5'), 422, "horizon.not_a_number", "horizon"),
    (body(rest=', "horizon": 10001'), 422, "horizon.out_of_range", "horizon"),
    (body(rest=', "horizon": ' + "9" * 400), 422, None, "horizon"),
    (body(rest=', "quantiles": [0.2]'), 422, "quantiles.not_trained", ""),
    (body(rest=', "quantiles": [NaN]'), 422, "quantiles.not_finite", "quantiles[0]"),
    (body(rest=', "tz": "Mars/Olympus"'), 422, "tz.unknown", ""),
    (body(rest=', "model": "nobody"'), 404, "model.unknown", ""),
    (body(rest=', "rows": []'), 422, "body.malformed", "either history or rows"),
    (body(series("NaN")), 422, "history.not_finite", "history.series.east.load[0]"),
    (body(series("-Infinity")), 422, "history.not_finite", "history.series.east.load[0]"),
    (body(series("1e999")), 422, "history.not_finite", "history.series.east.load[0]"),
    (body(series('"secret"')), 422, "history.not_a_number", "history.series.east.load[0]"),
    (body(series("true")), 422, "history.not_a_number", "history.series.east.load[0]"),
    (body(series("[]")), 422, "history.not_a_number", "history.series.east.load[0]"),
    (body(series("null")), 422, "history.empty", ""),
    (body(series("-1.0")), 422, "history.out_of_range", "history.series.east.load[0]"),
    (body(series(rows=LOOKBACK - 1)), 422, "forecast.short_history", "47"),
    (body(series(rows=0)), 422, "history.empty", ""),
    (body(series(channels=("load", "price"))), 422, "history.missing_channel", "wind"),
    (body(series(channels=("load", "price", "wind", "secret"))), 422, "history.unknown_channel", ""),
    (body(series().replace("east", "secret")), 422, "history.unknown_series", ""),
    (body("{}"), 422, "history.empty", ""),
    (body('{"east": 3}'), 422, "history.malformed", "history.series.east"),
    (body('{"east": {"load": 3}}'), 422, "history.malformed", "history.series.east.load"),
    (body(start="2024-01-15T16:17:00Z"), 422, "history.off_grid", ""),
    (body(start="2024-01-15T16:00:00"), 422, "history.start.malformed", ""),
    (body(start="secret"), 422, "history.start.malformed", ""),
    (body(start="9999-12-31T23:00:00Z"), 422, "history.implausible_time", ""),
    (body(start="0001-01-01T00:00:00+14:00"), 422, "history.start.malformed", ""),
    (body(rest=', "future": {"east": {"wind": [1.0]}}'), 422, "future.unknown_channel", ""),
    (body(rest=', "future": {"secret": {}}'), 422, "future.unknown_series", ""),
    (b'{"dataset": "tiny", "rows": [{"time": "2024-01-01", "site": "east", "load": NaN}]}', 422, None, ""),
    (b'{"dataset": "tiny", "rows": [{"site": "east"}]}', 422, "ingest.missing_column", ""),
    (b'{"dataset": "tiny", "rows": [3]}', 422, "rows.malformed", "rows"),
    (b'{"dataset": "tiny", "rows": {}}', 422, None, ""),
    (b'{"dataset": "tiny", "rows": []}', 422, None, ""),
    (b"[" * 100_000, 422, "body.not_json", ""),
    (b'{"a":' * 10_000, 422, "body.not_json", ""),
]


def test_what_cannot_be_forecast_from_is_refused_with_code_and_place(served: Served, subtests: pytest.Subtests) -> None:
    for content, status, code, place in REFUSED:
        with subtests.test(body=content[:80], code=code):
            answer = served.client.post(PATH, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status, answer.text
            problem = answer.json()
            assert code is None or problem["code"] == code, problem
            assert place in problem["detail"]
            assert problem["remedy"]
            assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "dataset.missing"),
        ({"dataset": "tiny", "horizn": "3"}, "body.unknown_field"),
        ({"dataset": "tiny", "horizon": "many"}, "horizon.not_a_number"),
        ({"dataset": "tiny", "quantiles": "half"}, "quantiles.not_a_number"),
    ],
)
def test_a_body_of_rows_is_asked_about_by_parameters(served: Served, query: dict[str, str], code: str) -> None:
    answer = served.client.post(PATH, params=query, content=b"time,site\n", headers={"content-type": "text/csv"})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_parameters_beside_json_are_refused(served: Served) -> None:
    answer = served.client.post(PATH, params={"horizon": 3}, json={"dataset": "tiny"})
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter.not_with_json")


def test_more_than_one_request_may_ask_for_is_refused(
    served: Served, history: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.answers.on_demand.MOST_POINTS", 100)
    refused = ask(served.client, history, horizon=26)
    assert (refused.status_code, refused.json()["code"]) == (422, "forecast.too_long")
    assert ask(served.client, history, horizon=25).status_code == 200


def test_when_too_many_wait_the_answer_says_when_to_try_again(
    served: Served, history: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.state.batching._DEEPEST", 0)
    refused = ask(served.client, history)
    assert (refused.status_code, refused.json()["code"]) == (503, "forecast.overloaded")
    assert refused.headers["retry-after"] == "1"


def test_a_damaged_model_is_not_served_and_its_folder_is_not_revealed(
    served: Served, history: dict[str, Any], crowned: Callable[..., Manifest], wait_until: Callable[..., None]
) -> None:
    crowned(served.home, "repeat_last-2")
    wait_until(lambda: ask(served.client, history).json()["model_version"] == "repeat_last-2")
    (served.home.home.models / "repeat_last-1" / "model.onnx").write_bytes(b"nothing")
    refused = ask(served.client, history, model="previous")
    assert (refused.status_code, refused.json()["code"]) == (503, "model.corrupt")
    assert str(served.home.home.path) not in refused.text


def test_a_champion_whose_files_are_damaged_leaves_the_one_before_in_its_place(
    home: Installation, crowned: Callable[..., Manifest]
) -> None:
    champions = LoadedChampions(home)
    champions.look()
    crowned(home, "repeat_last-2")
    (home.home.models / "repeat_last-2" / "model.onnx").write_bytes(b"nothing")
    champions.look()
    loaded = asyncio.run(champions.of("tiny"))
    assert loaded.champion.model_version == "repeat_last-1"
    crowned(home, "repeat_last-3")
    champions.look()
    assert asyncio.run(champions.of("tiny")).champion.model_version == "repeat_last-3"
    champions.close()


def test_json_of_the_longest_body_is_read_beside_the_others(served: Served, history: dict[str, Any]) -> None:
    long = {
        "start": (datetime.fromisoformat(history["start"]) - timedelta(hours=20_000)).isoformat(),
        "series": {
            name: {channel: [1.0] * 20_000 + values for channel, values in columns.items()}
            for name, columns in history["series"].items()
        },
    }
    content = json.dumps({"dataset": "tiny", "history": long}).encode()
    assert len(content) > 256 * 2**10
    answer = served.client.post(PATH, content=content)
    assert answer.status_code == 200, answer.text
    assert answer.json()["forecasts"] == ask(served.client, history).json()["forecasts"]
    assert datetime.fromisoformat(answer.json()["origin"]).astimezone(UTC) == served.issuance.origin
