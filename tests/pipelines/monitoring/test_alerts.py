from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from forecast.config.training import PromotionPolicy
from forecast.evaluation.night import NightRecord, judge
from forecast.evaluation.scores import Evidence
from forecast.installation import Installation
from forecast.runtime.manifest import Manifest
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.monitoring.score import score

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = PromotionPolicy(max_coverage_error=1.0)
Rules = tuple[dict[str, Any], ...]


@pytest.fixture
def served(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame], tiny_document: dict[str, Any],
    crown: Callable[..., Manifest], make_evidence: Callable[..., Evidence],
) -> Callable[..., Installation]:  # fmt: skip
    """A home with alert rules whose champion issued forecasts from hour 400 to 460, a few hours apart."""

    def make(rules: Rules, every: int = 6, shift: float = 0.0, **evidence: Any) -> Installation:
        tiny_document["datasets"]["tiny"]["alerts"] = rules
        late = pl.col("time") >= EPOCH.replace(tzinfo=None) + 400 * HOUR
        rows = tiny_rows(500).with_columns(price=pl.when(late).then(pl.col("price") + shift).otherwise("price"))
        home = make_home(None, tiny_document)
        for hours in range(400, 461, every):
            kept = rows.filter(pl.col("time") < EPOCH.replace(tzinfo=None) + hours * HOUR)
            kept.write_csv(home.home.path / "rows.csv")
            ingest(home.dataset("tiny"))
            if hours == 400:
                crown(home, fitted_until=EPOCH + 400 * HOUR)
                night(home, make_evidence("repeat_last-1", horizons=(6, 24), **evidence))
            issue(home.dataset("tiny"))
        return home

    return make


def night(home: Installation, evidence: Evidence) -> None:
    home.ledger.nights.add(
        NightRecord(
            dataset="tiny", recorded_at=EPOCH, data_version=0, data_digest="d", holdout_from=EPOCH, holdout_until=EPOCH,
            origins=200, candidates=(evidence,), champion_evidence=None, baselines=(), policy=POLICY, unfit="",
            verdict=judge((evidence,), None, POLICY, ""), champion="repeat_last-1", tracking_run="run",
        )
    )  # fmt: skip


def open_alerts(home: Installation) -> list[tuple[str, str]]:
    return [(alert.kind, alert.subject) for alert in reversed(home.ledger.alerts.find("tiny", open_only=True))]


def test_a_loss_far_above_the_holdout_is_raised_and_a_model_that_replaces_it_starts_afresh(
    served: Callable[..., Installation], crown: Callable[..., Manifest]
) -> None:
    home = served(({"kind": "error"},), every=4, error=0.05)
    message = score(home.dataset("tiny"))
    assert ("error", "load") in open_alerts(home)
    assert len(message.raised) == len(open_alerts(home))
    assert "alerts raised" in message.message
    crown(home, "repeat_last-2")
    assert len(score(home.dataset("tiny")).resolved) == len(message.raised)
    assert open_alerts(home) == []


def test_a_loss_like_that_of_the_holdout_is_none(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "error"}, {"kind": "regression"}), error=3.0)
    score(home.dataset("tiny"))
    assert open_alerts(home) == []


def test_a_regression_is_tested_on_forecasts_that_came_true_to_their_end(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "regression"},), error=0.05)
    score(home.dataset("tiny"))
    assert open_alerts(home) == [("regression", "1-6")]  # of the whole day too few do not overlap
    (alert,) = home.ledger.alerts.find("tiny")
    assert "against the holdout" in alert.message
    assert alert.value is not None
    assert alert.limit == 0.2


def test_a_band_without_width_covers_nothing_of_what_it_promises(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "coverage"},), every=3)
    score(home.dataset("tiny"))
    assert {subject for _, subject in open_alerts(home)} == {"load/1-6", "load/7-24", "price/1-6", "price/7-24"}


def test_to_repeat_the_last_value_loses_to_the_season(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "skill"},), every=3)
    score(home.dataset("tiny"))
    assert ("skill", "7-24") in open_alerts(home)


def test_inputs_that_moved_away_are_drift_and_others_are_not(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "drift", "above": 0.1},), every=12, shift=40.0)
    score(home.dataset("tiny"))
    assert open_alerts(home) == [("drift", "price")]


def test_data_that_are_old_are_stale_until_they_come(served: Callable[..., Installation]) -> None:
    home = served(({"kind": "stale", "after": "6h"},), every=60)
    score(home.dataset("tiny"))
    assert open_alerts(home) == [("stale", "data")]  # rows are of 2024; the forecast was issued a moment ago


def test_without_rules_nothing_is_raised(served: Callable[..., Installation]) -> None:
    home = served((), every=60, error=0.01)
    assert score(home.dataset("tiny")).raised == ()


@pytest.mark.slow
def test_the_command_line_tells_accuracy_revision_and_alerts(
    served: Callable[..., Installation], command_line: Callable[..., Any]
) -> None:
    home = served(({"kind": "coverage"},), every=3)
    message = json.loads(command_line("score", "--json", "--home", home.home.path).stdout)
    assert message["forecasts"] == 21
    document = json.loads(command_line("accuracy", "--by", "channel", "--json", "--home", home.home.path).stdout)
    assert [row["part"] for row in document["rows"]] == ["load", "price"]
    assert document["revision"]["causes"]["data"] > 0
    assert {alert["kind"] for alert in document["alerts"]} == {"coverage"}
    shown = command_line("accuracy", "--window", "30d", "--home", home.home.path)
    assert shown.returncode == 0
    assert "no scores yet" in shown.stdout  # the rows are of 2024
    whole = command_line("accuracy", "--home", home.home.path).stdout
    for words in ("1-6", "7-24", "skill vs naive", "the latest forecast changed by", "open since"):
        assert words in whole
    assert "coverage" in command_line("alerts", "--open", "--home", home.home.path).stdout
    assert command_line("accuracy", "--window", "soon", "--home", home.home.path).returncode == 2
