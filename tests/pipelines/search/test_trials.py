from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forecast.errors import StorageError
from forecast.installation import Installation
from models.catalog import ModelName
from pipelines.preparation.training_data import TrainingData
from pipelines.search.trials import TrialAttempt, Trials

MakeHome = Callable[..., Installation]
OWN = {"kernel_size": 7, "const_init": False}


@pytest.fixture
def document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    tiny_document["datasets"]["tiny"] |= {"models": ["dlinear"], "options": {"dlinear": OWN}}
    return tiny_document


@pytest.fixture
def home(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., Any], document: dict[str, Any]
) -> Installation:
    from pipelines.ingestion.ingest import ingest

    # Optuna fills URLs in: the braces in a folder's name must stay what they are.
    folder = Path(make_home().home.path.parent) / "{a} b"
    installation = make_home(tiny_rows(), document, folder)
    ingest(installation.dataset("tiny"))
    return installation


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(
    request: pytest.FixtureRequest, home: Installation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """A home whose ledger lies in a file, then one whose ledger lies in PostgreSQL, beside the trials."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("drop schema public cascade; create schema public")
        engine.dispose()
        monkeypatch.setenv("FORECAST_LEDGER_URL", url.render_as_string(hide_password=False))
    installation = Installation.open(home.home.path)
    yield installation
    installation.ledger.close()


@pytest.fixture
def history(home: Installation) -> TrainingData:
    return TrainingData.read(home.dataset("tiny"))


def opened(history: TrainingData, home: Installation) -> Trials:
    return Trials.open(history, home.dataset("tiny"), ModelName.DLINEAR)


def finish(trials: Trials, loss: float) -> TrialAttempt:
    attempt = trials.next()
    trials.complete(attempt, loss, 1.0, [loss + 1, loss])
    return attempt


def test_trials_outlive_the_process_wherever_the_ledger_lies(anywhere: Installation, history: TrainingData) -> None:
    trials = opened(history, anywhere)
    first = finish(trials, 2.0)
    second = finish(trials, 1.0)
    assert first.options == OWN
    assert {"learning_rate", "averaging", "scale_windows"} < set(second.options)
    assert second.options["const_init"] is False  # what no space names stays as the job file has it

    again = opened(history, anywhere)
    assert again.title == trials.title
    assert [(row.state, row.loss, row.losses) for row in again.rows()] == [
        ("complete", 2.0, (3.0, 2.0)),
        ("complete", 1.0, (2.0, 1.0)),
    ]
    assert anywhere.ledger.runs.find() == []
    third = again.next()
    assert third.options not in (first.options, second.options)


def test_the_sampler_learns_where_the_own_options_lie(home: Installation, history: TrainingData) -> None:
    trials = opened(history, home)
    finish(trials, 1.0)
    (trial,) = trials._study.trials
    # A kernel of 7 is no choice of the space; the rest is the preset's.
    assert trial.params == {"learning_rate": 3e-4, "averaging": 0.0, "scale_windows": False}


def test_other_data_begin_anew_with_the_own_options_and_then_the_best_of_before(
    home: Installation, history: TrainingData
) -> None:
    trials = opened(history, home)
    finish(trials, 2.0)
    best = finish(trials, 1.0)
    finish(trials, 3.0)
    other = opened(replace(history, digest="other"), home)
    assert other.title != trials.title
    assert [row.options for row in other.rows()] == [OWN, best.options]
    assert [other.next().options, other.next().options] == [OWN, best.options]


@pytest.mark.parametrize(
    "change",
    [{"horizons": [6, 12]}, {"lookback": 60}, {"quantiles": [0.2, 0.5, 0.8]}, {"training": {"max_epochs": 3}}],
    ids=lambda change: next(iter(change)),
)
def test_trials_that_cannot_be_compared_are_kept_apart(
    home: Installation, history: TrainingData, config_with: Callable[..., Any], change: dict[str, Any]
) -> None:
    same = config_with(models=["dlinear"], options={"dlinear": {"kernel_size": 13}})
    other = config_with(models=["dlinear"], options={"dlinear": OWN}, **change)
    assert opened(replace(history, config=same), home).title == opened(history, home).title
    assert opened(replace(history, config=other), home).title != opened(history, home).title


def test_changed_options_of_the_config_are_tried_in_the_same_study(
    home: Installation, history: TrainingData, config_with: Callable[..., Any]
) -> None:
    finish(opened(history, home), 1.0)
    changed = config_with(models=["dlinear"], options={"dlinear": {"kernel_size": 49}})
    trials = opened(replace(history, config=changed), home)
    assert trials.next().options == {"kernel_size": 49}
    assert len(trials.rows()) == 2


def test_a_trial_that_was_put_back_is_the_next_one(home: Installation, history: TrainingData) -> None:
    trials = opened(history, home)
    finish(trials, 1.0)
    attempt = trials.next()
    attempt.report(1, 0.5)
    trials.put_back(attempt, 1.0)
    assert [(row.state, row.loss) for row in trials.rows()] == [("complete", 1.0), ("cut off", 0.5), ("waiting", None)]
    assert opened(history, home).next().options == attempt.options


def test_a_trial_that_takes_its_process_down_is_begun_twice_and_no_more(
    home: Installation, history: TrainingData
) -> None:
    first = opened(history, home).next()
    assert opened(history, home).next().options == first.options
    third = opened(history, home)
    assert [row.state for row in third.rows()] == ["cut off", "cut off"]
    assert third.next().options != first.options


def test_a_trial_much_worse_than_the_others_is_poor(home: Installation, history: TrainingData) -> None:
    trials = opened(history, home)
    for loss in (1.0, 1.1, 1.2, 1.3):
        attempt = trials.next()
        trials.complete(attempt, loss, 1.0, [loss + 1, loss + 0.5, loss])
    attempt = trials.next()
    poor = []
    for epoch in (1, 2):
        attempt.report(epoch, 9.0)
        poor.append(attempt.is_poor)
    assert poor == [False, True]  # every training may begin badly
    trials.prune(attempt, 1.0, "told so")
    assert [(row.state, row.loss, row.reason) for row in trials.rows()][-1] == ("pruned", 9.0, "told so")


def test_importances_need_enough_trials(home: Installation, history: TrainingData) -> None:
    trials = opened(history, home)
    finish(trials, 1.0)
    for _ in range(9):
        attempt = trials.next()
        loss = float(attempt.options["learning_rate"])
        trials.complete(attempt, loss, 1.0, [loss])
    shares = trials.importance()
    assert max(shares, key=lambda name: shares[name]) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert opened(replace(history, digest="other"), home).importance() == {}


def test_an_unusable_database_is_an_error_of_the_ledger(
    home: Installation, history: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = opened(history, home)
    monkeypatch.setenv("FORECAST_LEDGER_URL", f"sqlite:///{home.home.path}/nowhere/ledger.db")
    with pytest.raises(StorageError, match="unable to open database file") as caught:
        opened(history, home)
    assert caught.value.code == "ledger.failed"
    engine = sa.create_engine(f"sqlite:///{home.home.path}/ledger.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("drop table trials")
    engine.dispose()
    with pytest.raises(StorageError, match="no such table"):
        trials.next()
