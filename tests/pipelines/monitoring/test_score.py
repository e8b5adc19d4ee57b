from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.ledger.tables import FORECAST_SCORES, LEAD_SCORES, SCORED_DAYS, SERIES_SCORES
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import MANIFEST, Manifest
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.monitoring.score import score

HOUR = timedelta(hours=1)
EPOCH = datetime(2024, 1, 1)  # noqa: DTZ001 - rows come as wall times
BAND = Calibration(
    group=24, quantile_offsets=(((-1.5, 0.0, 1.5), (-0.2, 0.0, 0.2)),), mean_offsets=((0.1, 0.0),)
)  # in deviations of 10
MakeHome = Callable[..., Installation]
Crown = Callable[..., Manifest]
PARTS = ("all", "lead_time", "lead_group", "channel", "model", "series")


@pytest.fixture
def rows(tiny_rows: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    """All that will ever happen; a test lets it come in bit by bit."""
    return tiny_rows(500)


def bring(home: Installation, rows: pl.DataFrame) -> None:
    rows.write_csv(home.home.path / "rows.csv")
    ingest(home.dataset("tiny"))


def until(rows: pl.DataFrame, hours: int) -> pl.DataFrame:
    return rows.filter(pl.col("time") < EPOCH + hours * HOUR)


@pytest.fixture
def serve(make_home: MakeHome, crown: Crown) -> Callable[[pl.DataFrame], Installation]:
    """Return a home with forecasts issued at hours 400, 406 and 430, and observations before hour 430."""

    def make(rows: pl.DataFrame) -> Installation:
        home = make_home(until(rows, 400))
        ingest(home.dataset("tiny"))
        crown(home, calibration=BAND, fitted_until=datetime(2024, 1, 11, tzinfo=UTC))
        for hours in (400, 406, 430):
            bring(home, until(rows, hours))
            issue(home.dataset("tiny"))
        return home

    return make


@pytest.fixture
def served(serve: Callable[[pl.DataFrame], Installation], rows: pl.DataFrame) -> Installation:
    return serve(rows)


def dump(home: Installation) -> list[list[tuple[Any, ...]]]:
    with home.ledger._database.transaction() as connection:
        return [
            [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
            for table in (SCORED_DAYS, LEAD_SCORES, SERIES_SCORES, FORECAST_SCORES)
        ]


def pairs(home: Installation, rows: pl.DataFrame, channel: str) -> Iterator[tuple[int, float, list[float], float]]:
    """Yield lead, what happened, quantiles and mean of everything that has come true, one by one."""
    known = {(row["site"], row["time"]): row[channel] for row in rows.iter_rows(named=True)}
    for one in home.ledger.issuances.served("tiny"):
        for row in home.dataset("tiny").forecasts.read(one.forecast_id, one.issued_at).iter_rows(named=True):
            actual = known.get((row["series"], row["time"].replace(tzinfo=None)))
            if row["channel"] == channel and actual is not None:
                yield row["lead"], actual, row["quantiles"], row["mean"]


def test_a_forecast_that_was_made_afterwards_is_not_scored(served: Installation) -> None:
    score(served.dataset("tiny"))
    before = dump(served)
    made, is_new = issue(served.dataset("tiny"), SystemClock().now())
    assert made.backfilled
    assert is_new
    assert score(served.dataset("tiny")).forecasts == 0
    assert dump(served) == before


def test_scores_are_those_of_each_value_that_came_true(served: Installation, rows: pl.DataFrame) -> None:
    message = score(served.dataset("tiny"))
    (load,) = [row for row in served.ledger.scores.accuracy("tiny", "channel") if row.part == "load"]
    expected = list(pairs(served, until(rows, 430), "load"))
    assert load.count == len(expected)
    assert message.values == 2 * load.count
    errors = np.asarray([actual - quantiles[1] for _, actual, quantiles, _ in expected])
    assert load.mae_in_units == pytest.approx(np.abs(errors).mean())
    assert load.mae == pytest.approx(np.abs(errors).mean() / 10)
    squares = [(actual - mean) ** 2 for _, actual, _, mean in expected]
    assert load.rmse_in_units == pytest.approx(np.mean(squares) ** 0.5)
    inside = [quantiles[0] <= actual <= quantiles[-1] for _, actual, quantiles, _ in expected]
    assert load.coverage == pytest.approx(np.mean(inside))
    assert load.promised_coverage == pytest.approx(0.8)
    lowest = [max(0.1 * (actual - q[0]), -0.9 * (actual - q[0])) * 2 / 10 for _, actual, q, _ in expected]
    assert load.pinball_by_level["0.1"] == pytest.approx(np.mean(lowest))
    assert load.pinball == pytest.approx(np.mean(list(load.pinball_by_level.values())))
    for row in served.ledger.scores.accuracy("tiny", "lead_time", channel="load"):
        here = [abs(actual - quantiles[1]) for lead, actual, quantiles, _ in expected if str(lead) == row.part]
        assert (row.count, row.mae_in_units) == (len(here), pytest.approx(np.mean(here)))


def test_the_seasonal_naive_forecast_is_made_from_what_was_known_at_the_origin(
    served: Installation, rows: pl.DataFrame
) -> None:
    corrected = until(rows, 430).with_columns(
        load=pl.when(pl.col("time") < EPOCH + 400 * HOUR).then(0.0).otherwise("load")
    )
    bring(served, corrected)
    score(served.dataset("tiny"))
    known = {(row["site"], row["time"]): row["load"] for row in rows.iter_rows(named=True)}
    errors, own = [], []
    for hours in (400, 406):
        for lead in range(min(24, 430 - hours)):
            for site in ("east", "west"):
                time = EPOCH + (hours + lead) * HOUR
                errors.append(abs(known[site, time] - known[site, time - 24 * HOUR]))
                own.append(abs(known[site, time] - known[site, EPOCH + (hours - 1) * HOUR]))
    (load,) = [row for row in served.ledger.scores.accuracy("tiny", "channel") if row.part == "load"]
    assert load.skill == pytest.approx(1 - sum(own) / sum(errors), abs=1e-3)


def test_mase_uses_the_seasonal_naive_error_of_the_training_rows(served: Installation, rows: pl.DataFrame) -> None:
    score(served.dataset("tiny"))
    (east,) = [row for row in served.ledger.scores.accuracy("tiny", "series", channel="load") if row.part == "east"]
    fitted = rows.filter(site="east").filter(pl.col("time") < EPOCH + 240 * HOUR)["load"].to_numpy()
    assert east.mae_in_units is not None
    assert east.mase == pytest.approx(east.mae_in_units / np.abs(fitted[24:] - fitted[:-24]).mean(), rel=0.01)


def test_what_was_filled_and_not_observed_counts_nowhere(
    serve: Callable[[pl.DataFrame], Installation], rows: pl.DataFrame
) -> None:
    at = pl.col("time") == EPOCH + 403 * HOUR
    served = serve(rows.with_columns(load=pl.when(~at).then("load")))
    score(served.dataset("tiny"))
    counts = {row.part: row.count for row in served.ledger.scores.accuracy("tiny", "lead_time", channel="load")}
    assert counts["4"] == 2  # of the forecast at hour 406 alone
    assert counts["3"] == 4


def test_a_replay_changes_nothing(served: Installation) -> None:
    first = score(served.dataset("tiny"))
    before = dump(served)
    again = score(served.dataset("tiny"))
    assert first.forecasts == 3
    assert (again.forecasts, again.values, again.message) == (0, 0, "no new observations to score")
    assert dump(served) == before


def test_only_what_is_new_is_scored(served: Installation, rows: pl.DataFrame) -> None:
    score(served.dataset("tiny"))
    bring(served, until(rows, 440))
    issue(served.dataset("tiny"))
    assert (
        score(served.dataset("tiny")).forecasts == 2
    )  # what began at hour 400 and 406 had come true already, to its end


def test_a_corrected_value_is_scored_again(served: Installation, rows: pl.DataFrame) -> None:
    score(served.dataset("tiny"))
    before = served.ledger.scores.accuracy("tiny", "channel")
    at = (pl.col("time") == EPOCH + 401 * HOUR) & (pl.col("site") == "east")
    bring(served, until(rows, 430).with_columns(load=pl.when(at).then(pl.col("load") + 1000).otherwise("load")))
    score(served.dataset("tiny"))
    after = served.ledger.scores.accuracy("tiny", "channel")
    assert after[0].mae_in_units > before[0].mae_in_units + 1000 / before[0].count * 0.9  # type: ignore[operator]
    assert after[1] == before[1]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(4)), scorings=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 99)
)
def test_the_order_in_which_values_come_and_are_scored_does_not_matter(
    served: Installation, rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory, order: list[int],
    scorings: list[bool], seed: int,
) -> None:  # fmt: skip
    late = rows.filter(pl.col("time").is_between(EPOCH + 430 * HOUR, EPOCH + 470 * HOUR))
    part = np.random.default_rng(seed).integers(0, 4, len(late))

    def scored(order: list[int], scorings: list[bool]) -> tuple[object, list[object]]:
        folder = tmp_path_factory.mktemp("copy")
        shutil.copytree(served.home.path, folder, dirs_exist_ok=True)
        home = Installation.open(folder)
        with home.ledger:
            for number, is_scored in zip(order, scorings, strict=True):
                batch = late.filter(pl.Series(part == number))
                if len(batch):
                    bring(home, batch)
                if is_scored:
                    score(home.dataset("tiny"))
            score(home.dataset("tiny"))
            return dump(home), [home.ledger.scores.accuracy("tiny", by) for by in PARTS]

    assert scored(order, scorings) == scored([0, 1, 2, 3], [False] * 4)


def test_sums_add_up_and_nothing_is_nan(served: Installation) -> None:
    score(served.dataset("tiny"))
    (whole,) = served.ledger.scores.accuracy("tiny")
    for by in PARTS:
        found = served.ledger.scores.accuracy("tiny", by)  # type: ignore[arg-type]
        assert sum(row.count for row in found) == whole.count
        for measure in ("mae", "pinball", "coverage", "width", "mase"):
            total = sum(getattr(row, measure) * row.count for row in found)
            assert total / whole.count == pytest.approx(getattr(whole, measure))
        for row in found:
            numbers = [value for name in row.__slots__ if isinstance(value := getattr(row, name), float)]
            assert all(math.isfinite(value) for value in (*numbers, *row.pinball_by_level.values()))
    groups = served.ledger.scores.accuracy("tiny", "lead_group")
    assert [row.part for row in groups] == ["1-6", "7-24"]
    origins = served.ledger.scores.by_origin("tiny", "repeat_last-1", datetime(2024, 1, 1, tzinfo=UTC))
    assert sum(one.count for one in origins) == whole.count
    assert sum(one.pinball for one in origins) == pytest.approx(whole.pinball * whole.count)


def test_a_window_of_origins_is_whole_days(served: Installation) -> None:
    score(served.dataset("tiny"))
    origins = [one.origin for one in served.ledger.issuances.served("tiny")]
    since = served.ledger.scores.accuracy("tiny", since=origins[1])
    assert since == served.ledger.scores.accuracy(
        "tiny"
    )  # 16 and 22 o'clock of one day; nothing of the third came true
    assert served.ledger.scores.accuracy("tiny", since=origins[2]) == []
    assert served.ledger.scores.accuracy("tiny", until=origins[0].replace(hour=0)) == []


def test_before_anything_was_issued_there_is_nothing_to_score(make_home: MakeHome, rows: pl.DataFrame) -> None:
    home = make_home(until(rows, 100))
    assert score(home.dataset("tiny")).message == "no new observations to score"
    ingest(home.dataset("tiny"))
    assert score(home.dataset("tiny")).forecasts == 0
    assert home.ledger.scores.accuracy("tiny") == []


def change_the_manifest(folder: Path) -> None:
    message = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(message | {"trained_at": "2020-01-01T00:00:00Z"}), encoding="utf-8")


@pytest.mark.parametrize("lose", [shutil.rmtree, change_the_manifest])
def test_forecasts_of_a_model_whose_files_are_gone_leave_the_others_their_scores(
    served: Installation,
    rows: pl.DataFrame,
    crown: Crown,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[Path], None],
) -> None:
    crown(served, "repeat_last-2", calibration=BAND)
    issue(served.dataset("tiny"))
    bring(served, until(rows, 440))
    lose(served.home.models / "repeat_last-1")
    score(served.dataset("tiny"))
    assert {row.part for row in served.ledger.scores.accuracy("tiny", "model")} == {"repeat_last-2"}
    assert "repeat_last-1 cannot be scored" in caplog.text


def test_a_channel_that_was_retired_since_is_not_scored(
    served: Installation, make_home: MakeHome, tiny_document: dict[str, Any]
) -> None:
    del tiny_document["datasets"]["tiny"]["channels"]["price"]
    with served.ledger:
        served.dataset("tiny").observations.retire_channel("price")
    home = make_home(None, tiny_document, served.home.path)
    score(home.dataset("tiny"))
    assert [row.part for row in home.ledger.scores.accuracy("tiny", "channel")] == ["load"]


# --- MLflow -----------------------------------------------------------------------------------------------------------


def test_mlflow_shows_how_good_the_champion_was_once_per_scoring_that_found_something(
    served: Installation, rows: pl.DataFrame, tracking_database: Path
) -> None:
    from mlflow import MlflowClient

    shutil.copyfile(tracking_database, served.home.path / "mlflow.db")
    client = MlflowClient(served.home.tracking_uri, served.home.tracking_uri)
    run = client.create_run(client.create_experiment("tiny"))
    client.create_registered_model("tiny")
    client.create_model_version("tiny", "runs:/x", run.info.run_id, tags={"model_version": "repeat_last-1"})
    for _ in range(2):  # the second time nothing is new
        score(served.dataset("tiny"))
    (version,) = client.search_model_versions("name = 'tiny'")
    (group, _) = served.ledger.scores.accuracy("tiny", "lead_group")
    assert float(version.tags["live/pinball/1-6"]) == pytest.approx(group.pinball, rel=1e-3)
    message = client.get_metric_history(run.info.run_id, "live/coverage/1-6")
    assert [metric.value for metric in message] == [group.coverage]
    bring(served, until(rows, 440))
    score(served.dataset("tiny"))
    assert len(client.get_metric_history(run.info.run_id, "live/coverage/1-6")) == 2


def test_that_mlflow_is_down_is_a_warning(
    served: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert score(served.dataset("tiny")).forecasts == 3
    assert "the live accuracy of repeat_last-1 was not logged to MLflow" in caplog.text


def test_a_ledger_in_postgresql_says_the_same(
    serve: Callable[[pl.DataFrame], Installation], rows: pl.DataFrame, postgresql: sa.URL,
    monkeypatch: pytest.MonkeyPatch, tiny_document: dict[str, Any], tmp_path: Path,
) -> None:  # fmt: skip
    tiny_document["datasets"]["tiny"]["alerts"] = [{"kind": "stale", "after": "6h"}]
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("FORECAST_LEDGER_URL", postgresql.render_as_string(hide_password=False))
        there = serve(rows)
        assert len(score(there.dataset("tiny")).raised) == 1
        assert score(there.dataset("tiny")).raised == ()
    shutil.rmtree(tmp_path / "home")
    here = serve(rows)
    score(here.dataset("tiny"))
    for by in PARTS:
        assert there.ledger.scores.accuracy("tiny", by) == here.ledger.scores.accuracy("tiny", by)  # type: ignore[arg-type]
    assert [alert.subject for alert in there.ledger.alerts.find("tiny", open_only=True)] == ["data"]
    assert next(iter(there.ledger.revisions.latest("tiny").values())).steps == 18
