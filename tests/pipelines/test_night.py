"""Whole nights in this process, with models that are solved within a second."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from forecast.errors import ForecastError, StorageError, TrainingError, UnavailableError
from forecast.evaluation.night import NightRecord
from forecast.installation import Installation
from forecast.progress import Reporter
from forecast.runtime.model import load, load_evaluated
from pipelines.ingestion.ingest import ingest
from pipelines.retrain import retrain
from pipelines.training.rollback import rollback

Make = Callable[..., Installation]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def make(
    make_home: Make, tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame], migrated: Path
) -> Make:
    """Return a home whose nights compare a linear model with seasonal naive."""

    def make(hours: int = 960, **fields: Any) -> Installation:
        fields.setdefault("training", {})
        fields["training"] = {"baselines": ["seasonal_naive"]} | fields["training"]
        tiny_document["datasets"]["tiny"] |= {"models": ["linear"]} | fields
        installation = make_home(tiny_rows(hours), tiny_document)
        if not (installation.home.path / "mlflow.db").exists():
            shutil.copy(migrated, installation.home.path / "mlflow.db")
        ingest(installation.dataset("tiny"))
        return installation

    return make


def a_night(installation: Installation) -> NightRecord:
    return retrain(installation.dataset("tiny"), Reporter(Console(quiet=True)))


def folders(installation: Installation) -> set[str]:
    return {folder.name for folder in (installation.home.models / "tiny").iterdir()}


@pytest.mark.slow
def test_training_again_at_the_same_moment_of_a_replay_keeps_the_champion_on_disk(
    make: Make, tiny_rows: Callable[..., pl.DataFrame], tmp_path: Path
) -> None:
    # The clock of a replay stands still while no scheduler runs, so nothing but the version tells two trainings apart.
    tiny_rows(960).write_parquet(tmp_path / "rows.parquet")
    replay = {"kind": "replay", "path": "../rows.parquet", "start": datetime(2024, 2, 9)}  # noqa: DTZ001
    home = make(source=replay)
    nights = [a_night(home) for _ in range(2)]
    champion = home.ledger.champions.current("tiny")
    assert champion is not None
    assert champion.model_version == nights[1].champion
    assert load(home.home.models / champion.folder).manifest.model_version == champion.model_version
    assert home.dataset("tiny").clock.now() == datetime(2024, 2, 9, tzinfo=UTC)


def test_a_first_night_a_second_one_and_back(make: Make) -> None:
    from forecast.tracking.registry import Registry

    home = make()
    first = a_night(home)
    assert first.verdict.promote
    assert {one.model_name for one in first.leaderboard} == {"linear", "seasonal_naive"}
    assert folders(home) == {first.champion}
    champion = home.ledger.champions.current("tiny")
    assert champion is not None
    assert champion.model_version == first.champion
    registry = Registry(home.home)
    assert registry.aliases("tiny") == {"champion": first.champion}

    second = a_night(home)  # of the same rows: nobody gains anything
    assert not second.verdict.promote
    assert second.champion == first.champion
    assert second.champion_evidence is not None
    assert second.champion_evidence.pinball == pytest.approx(first.leaderboard[0].pinball, rel=1e-6)
    assert folders(home) == {first.champion}, "challengers that lost are removed"
    assert registry.aliases("tiny") == {"champion": first.champion, "challenger": second.verdict.challenger}
    assert [night.decide_again() for night in home.ledger.nights.latest("tiny", 5)] == [second.verdict, first.verdict]

    home.ledger.champions.promote(replace(champion, model_version="other"))
    rollback(home.dataset("tiny"))
    assert registry.aliases("tiny")["champion"] == first.champion


@pytest.mark.slow
def test_a_winner_that_was_fitted_again_is_compared_as_it_was_before(make: Make) -> None:
    home = make(training={"refit": True})
    night = a_night(home)
    assert night.champion is not None
    assert night.champion.endswith("-refitted")
    champion = home.ledger.champions.current("tiny")
    assert champion is not None
    serving = load(home.home.models / champion.folder, champion.digest).manifest
    scored = load_evaluated(home.home.models / champion.folder, champion.digest).manifest
    assert serving.refitted
    assert serving.fitted_until == night.holdout_until
    assert scored.fitted_until == night.holdout_from
    assert serving.calibration == scored.calibration

    again = a_night(home)
    assert again.unfit == ""
    assert again.champion_evidence is not None
    assert again.champion_evidence.model_version == night.champion
    assert again.champion_evidence.pinball == pytest.approx(night.leaderboard[0].pinball, rel=1e-6)


def test_a_night_whose_best_model_may_not_serve_is_kept_and_says_why(make: Make) -> None:
    home = make(promotion={"max_size": 1e-6})
    with pytest.raises(UnavailableError, match="is refused: its network has") as caught:
        a_night(home)
    assert caught.value.code == "forecast.no_champion"
    assert home.ledger.champions.current("tiny") is None
    (night,) = home.ledger.nights.latest("tiny")
    assert not night.verdict.promote


def test_without_mlflow_a_night_fails_with_a_name_and_the_champion_stays(
    make: Make, crown: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    home = make()
    crown(home)
    with pytest.raises(StorageError) as caught:
        a_night(home)
    assert caught.value.code == "tracking.failed"
    champion = home.ledger.champions.current("tiny")
    assert champion is not None
    assert champion.model_version == "repeat_last-1"
    assert home.ledger.nights.latest("tiny") == []


def test_a_model_whose_loss_explodes_leaves_the_others_to_the_night(make: Make) -> None:
    explodes = {"options": {"dlinear": {"learning_rate": 1e38}}}
    training = {"max_epochs": 2, "stride": 8}
    home = make(models=["linear", "dlinear"], training=training, **explodes)
    night = a_night(home)
    assert set(night.failures) == {"dlinear"}
    assert night.failures["dlinear"].startswith("[training.diverged]")
    assert night.verdict.promote

    home = make(models=["dlinear"], training=training | {"baselines": []}, **explodes)
    with pytest.raises(TrainingError) as caught:
        a_night(home)
    assert caught.value.code == "training.all_failed"
    champion = home.ledger.champions.current("tiny")
    assert champion is not None
    assert champion.model_version == night.champion


@pytest.mark.parametrize(("hours", "code"), [(60, "training.too_short"), (48 + 24 + 3 * 72 - 1, "training.too_short")])
def test_too_few_rows_are_an_error_before_any_training(make: Make, hours: int, code: str) -> None:
    with pytest.raises(ForecastError) as caught:
        a_night(make(hours))
    assert caught.value.code == code
