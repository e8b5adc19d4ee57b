from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from forecast.cli.output import beaten, leaderboard, night_document
from forecast.config.dataset import DatasetConfig
from forecast.config.training import PromotionPolicy
from forecast.evaluation.night import NightRecord, judge
from forecast.evaluation.scores import Evidence
from forecast.installation import Installation
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion

Make = Callable[..., Evidence]
POLICY = PromotionPolicy(max_coverage_error=1.0)
NOW = datetime(2024, 5, 1, 2, 30, tzinfo=UTC)


@pytest.fixture
def make_night(make_evidence: Make) -> Callable[..., NightRecord]:
    def make(*candidates: Evidence, before: Evidence | None = None, **fields: Any) -> NightRecord:
        scored = candidates or (make_evidence("linear-1", 1.0), make_evidence("itransformer-1", 0.6))
        verdict = judge(scored, before, POLICY, "")
        night = {
            "dataset": "tiny", "recorded_at": NOW, "data_version": 3, "data_digest": "d", "holdout_from": NOW,
            "holdout_until": NOW, "origins": 200, "candidates": scored, "champion_evidence": before,
            "baselines": ("seasonal_naive", "linear"), "policy": POLICY, "unfit": "", "verdict": verdict,
            "champion": verdict.challenger, "tracking_run": "run",
        }  # fmt: skip
        return NightRecord(**night | fields)

    return make


def champion(version: str) -> Champion:
    return Champion("tiny", version.partition("-")[0], version, f"tiny/{version}", "digest", NOW, "it won")


def test_a_night_is_decided_again_as_it_was(make_night: Callable[..., NightRecord], make_evidence: Make) -> None:
    night = make_night(make_evidence("a", 0.97, noise=1.0, seed=3), before=make_evidence("b", noise=1.0, seed=4))
    stored = NightRecord.model_validate_json(night.model_dump_json())
    assert stored == night
    assert stored.decide_again() == night.verdict


def test_a_night_of_an_earlier_release_is_still_read(
    make_night: Callable[..., NightRecord], make_evidence: Make
) -> None:
    night = make_night(before=make_evidence("b"))
    document = night.model_dump_json()
    for name, earlier in (("champion_evidence", "incumbent"), ("smoke_test", "rehearsal")):
        assert f'"{name}":' in document
        document = document.replace(f'"{name}":', f'"{earlier}":')
    assert NightRecord.model_validate_json(document) == night


def test_changed_numbers_are_seen(make_night: Callable[..., NightRecord], make_evidence: Make) -> None:
    night = make_night(make_evidence("a", 0.9), before=make_evidence("b"))
    better = night.model_copy(update={"candidates": (make_evidence("a", 0.8),)})
    assert better.decide_again() != night.verdict


def test_the_leaderboard_is_sorted_and_holds_the_champion_before(
    make_night: Callable[..., NightRecord], make_evidence: Make
) -> None:
    night = make_night(make_evidence("c", 1.5), make_evidence("a", 0.5), before=make_evidence("b"))
    assert [one.model_version for one in night.leaderboard] == ["a", "b", "c"]


def test_a_model_that_no_baseline_beats_is_not_named(
    make_night: Callable[..., NightRecord], make_evidence: Make
) -> None:
    assert beaten(make_night()) == []
    (message,) = beaten(make_night(make_evidence("linear-1", 0.5), make_evidence("informer-1", 1.0)))
    assert "informer does not beat linear" in message
    assert "+100.0%" in message


def test_a_champion_is_not_taken_for_the_model_of_its_kind_that_a_baseline_beats(
    make_night: Callable[..., NightRecord], make_evidence: Make
) -> None:
    trained = (make_evidence("linear-1", 0.5), make_evidence("informer-2", 1.0))
    night = make_night(*trained, before=make_evidence("informer-1", 0.4))
    assert [one.model_version for one in night.beaten] == ["informer-2"]
    (message,) = beaten(night)
    assert message.startswith("informer-2 does not beat linear: its loss is +")


@pytest.mark.parametrize(("baseline", "message"), [(0.0, "its loss is 1"), (float("nan"), None)])
def test_a_baseline_with_a_loss_of_nan_or_zero_gives_no_percentage(
    make_night: Callable[..., NightRecord], make_evidence: Make, baseline: float, message: str | None
) -> None:
    def losing(version: str, loss: float) -> Evidence:
        made = make_evidence(version)
        last = max(made.by_horizon)
        scores = made.by_horizon[last].model_copy(update={"pinball": loss})
        return made.model_copy(update={"by_horizon": {**made.by_horizon, last: scores}})

    said = beaten(make_night(losing("linear-1", baseline), losing("informer-1", 1.0)))
    assert [line.rpartition(": ")[2] for line in said] == ([message] if message else [])


def test_the_table_has_every_model_and_marks_the_champion(
    make_night: Callable[..., NightRecord], config_with: Callable[..., DatasetConfig]
) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(leaderboard(make_night(), config_with(horizons=[2, 4])))
    text = capture.get()
    assert "★ itransformer-1" in text
    assert "  linear-1" in text
    assert "MASE" in text


def test_a_night_for_machines_is_flat_and_without_the_losses_of_each_origin(
    make_night: Callable[..., NightRecord],
) -> None:
    document = night_document(make_night())
    first, second = document["leaderboard"]
    assert first["model_name"] == "itransformer"
    assert first["pinball"] < second["pinball"]
    assert "group_losses" not in first
    assert "candidates" not in document


def test_a_night_and_its_champion_are_kept_together(
    make_home: Callable[..., Installation], make_night: Callable[..., NightRecord]
) -> None:
    ledger: Ledger = make_home().ledger
    ledger.nights.add(make_night(tracking_run="first"))
    assert ledger.champions.current("tiny") is None
    ledger.nights.add(make_night(tracking_run="second"), champion("itransformer-1"))
    assert [night.tracking_run for night in ledger.nights.latest("tiny", 5)] == ["second", "first"]
    assert ledger.champions.current("tiny") == champion("itransformer-1")
    assert ledger.nights.latest("other") == []


def test_all_champions_are_listed_newest_first(make_home: Callable[..., Installation]) -> None:
    ledger = make_home().ledger
    for version in ("a", "b", "a"):
        ledger.champions.promote(champion(version))
    assert [one.model_version for one in ledger.champions.history("tiny")] == ["a", "b", "a"]
    assert [one.model_version for one in ledger.champions.history("tiny", limit=1)] == ["a"]
