from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from rich.console import Console

from forecast.config.file import ConfigFile
from forecast.config.training import EngineName
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.progress import Reporter, Step
from pipelines.ingestion.ingest import ingest
from pipelines.search.deadline import Limited, TimeIsOverError
from pipelines.search.tune import Tuning, tune

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    tiny_document["datasets"]["tiny"] |= {
        "models": ["dlinear"],
        "training": {"max_epochs": 2, "stride": 8, "batch_size": 32},
    }
    return tiny_document


@pytest.fixture
def filled(make_home: MakeHome, tiny_rows: MakeRows, migrated: Path) -> Callable[..., Installation]:
    """Return a home with ingested rows."""

    def make(document: dict[str, Any], rows: pl.DataFrame | None = None, folder: Path | None = None) -> Installation:
        installation = make_home(tiny_rows() if rows is None else rows, document, folder)
        shutil.copyfile(migrated, installation.home.path / "mlflow.db")
        ingest(installation.dataset("tiny"))
        return installation

    return make


@pytest.fixture
def home(filled: Callable[..., Installation], document: dict[str, Any]) -> Installation:
    return filled(document)


class Listener(Reporter):
    """Receives progress reports, and presses Ctrl-C after a number of epochs."""

    def __init__(self, interrupt_after: int = 0) -> None:
        super().__init__(Console(file=StringIO()))
        self.heard: list[str] = []
        self._interrupt_after = interrupt_after

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        del title
        yield Told(self)

    def hear(self, text: str) -> None:
        self.heard.append(text)
        if len(self.heard) == self._interrupt_after:
            raise KeyboardInterrupt


class Told(Step):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def note(self, text: str) -> None:
        self._listener.hear(text)


def search(
    home: Installation,
    model: str = "dlinear",
    minutes: float = 5.0,
    limit: int | None = 3,
    reporter: Reporter | None = None,
    engine: EngineName | None = None,
) -> Tuning:
    return tune(home.dataset("tiny"), model, reporter or Listener(), minutes=minutes, limit=limit, engine=engine)


def test_a_search_tries_the_own_options_first_and_tells_the_best_ones(
    home: Installation, document: dict[str, Any]
) -> None:
    found = search(home)
    assert found.stopped == "trials"
    assert [row.state for row in found.trials] == ["complete"] * 3
    assert found.trials[0].options == {}
    assert found.present == found.trials[0]
    assert found.best is not None
    assert found.best.loss == min(row.loss for row in found.trials if row.loss is not None)
    assert [len(row.losses) for row in found.trials] == [2] * 3
    assert found.best.number > 1  # the preset's rate is low for a training as short as this
    # The lines can be put into the job file as they are.
    message = tomllib.loads(found.toml)["datasets"]["tiny"]["options"]
    assert message == {"dlinear": found.best.options}
    document["datasets"]["tiny"]["options"] = message
    ConfigFile.model_validate(document)

    client = mlflow.MlflowClient(home.home.tracking_uri)
    parent = client.get_run(found.tracking_run)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found.tracking_run}'", order_by=["start_time ASC"]
    )
    assert [child.data.tags["state"] for child in children] == ["complete"] * 3
    assert [child.data.metrics["best_val_loss"] for child in children] == [row.loss for row in found.trials]
    assert {child.info.status for child in (parent, *children)} == {"FINISHED"}
    losses = client.get_metric_history(children[1].info.run_id, "val_loss")
    assert [entry.value for entry in losses] == list(found.trials[1].losses)
    assert children[2].data.params["option.learning_rate"] == str(found.trials[2].options["learning_rate"])
    assert found.toml in parent.data.tags["mlflow.note.content"]
    assert "figures/history.html" in {entry.path for entry in client.list_artifacts(found.tracking_run, "figures")}


def test_a_search_looks_at_no_row_behind_the_validation_slice(
    filled: Callable[..., Installation], tiny_rows: MakeRows, document: dict[str, Any], tmp_path: Path
) -> None:
    losses = []
    for name, factor in (("one", 1.0), ("other", 50.0)):
        number = pl.int_range(pl.len()).over("site")
        changed = tiny_rows().with_columns(
            pl.when(number >= 400 - 6 * 24).then(pl.col("price") * factor).otherwise("price").alias("price")
        )
        losses.append(search(filled(document, changed, tmp_path / name), limit=1).trials[0].losses)
    assert losses[0] == losses[1]


def test_a_trial_that_fails_is_a_failed_trial_and_the_search_goes_on(
    filled: Callable[..., Installation], document: dict[str, Any]
) -> None:
    # The own width cannot be shared by the own heads; those of the space can.
    document["datasets"]["tiny"] |= {"models": ["itransformer"], "options": {"itransformer": {"width": 30, "heads": 4}}}
    installation = filled(document)
    found = search(installation, "itransformer", limit=2)
    assert [row.state for row in found.trials] == ["failed", "complete"]
    assert "model.width_not_divisible" in found.trials[0].reason
    assert found.present is None
    client = mlflow.MlflowClient(installation.home.tracking_uri)
    experiment = client.get_run(found.tracking_run).info.experiment_id
    (failed,) = client.search_runs([experiment], "tags.state = 'failed'")
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", found.trials[0].reason)


def test_a_search_whose_trials_all_fail_gives_up_and_says_why(
    filled: Callable[..., Installation], document: dict[str, Any]
) -> None:
    # No space names the stacks, so every trial has more of them than layers.
    document["datasets"]["tiny"] |= {"models": ["informer"], "options": {"informer": {"stacks": 9}}}
    installation = filled(document)
    with pytest.raises(ForecastError, match="stacks") as caught:
        search(installation, "informer", limit=None)
    assert caught.value.code == "tuning.all_failed"


def test_a_search_that_is_interrupted_goes_on_from_its_last_whole_epoch(
    filled: Callable[..., Installation], document: dict[str, Any]
) -> None:
    document["datasets"]["tiny"]["training"] |= {"max_epochs": 5, "patience": 5}
    installation = filled(document)
    first = search(installation, reporter=Listener(interrupt_after=4))
    assert first.stopped == "interrupted"
    assert [(row.state, len(row.losses)) for row in first.trials] == [("cut off", 4), ("waiting", 0)]
    assert first.trials[1].options == first.trials[0].options
    listener = Listener()
    second = search(installation, limit=1, reporter=listener)
    assert [note.split(",")[0] for note in listener.heard] == ["epoch 4", "epoch 5"]
    assert [(row.state, len(row.losses)) for row in second.trials] == [("cut off", 4), ("complete", 5)]
    assert second.trials[1].losses[:4] == first.trials[0].losses
    assert not list(installation.home.checkpoints.rglob("*.ckpt"))


def test_a_search_ends_with_its_time_within_a_batch(home: Installation) -> None:
    found = search(home, minutes=1e-6)
    assert (found.stopped, [row.state for row in found.trials]) == ("minutes", ["waiting"])
    assert (found.best, found.toml) == (None, "")
    step = Limited(Step(), time.monotonic() - 1)
    with pytest.raises(TimeIsOverError):
        step.part(0.0, 0.5).reach(0.1)


# Ray leaves the sockets and processes of a cluster that it has stopped to the garbage collector.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_trials_on_ray_end_as_those_here(
    filled: Callable[..., Installation], document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("FORECAST_CORES", "1")
    here = search(filled(document), limit=1)
    there = search(filled(document, folder=tmp_path / "there"), limit=2, engine=EngineName.RAY)
    assert [row.state for row in there.trials] == ["complete", "complete"]
    assert there.trials[0].losses == here.trials[0].losses


@pytest.mark.slow
def test_a_killed_search_keeps_its_trials_and_goes_on(home: Installation, wait_until: Callable[..., None]) -> None:
    arguments = ["tune", "--model", "dlinear", "--minutes", "5", "--home", str(home.home.path)]
    searching = subprocess.Popen(
        [sys.executable, "-m", "forecast", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def has_trials() -> bool:
        assert searching.poll() is None, searching.communicate()[1]
        return _complete(home) >= 2

    try:
        wait_until(has_trials, 120)
    finally:
        searching.send_signal(signal.SIGKILL)
        searching.communicate()
    kept = _complete(home)
    found = search(home, limit=2)
    states = [row.state for row in found.trials]
    assert states.count("complete") == kept + 2
    assert set(states) <= {"complete", "cut off", "pruned"}
    client = mlflow.MlflowClient(home.home.tracking_uri)
    experiment = client.get_run(found.tracking_run).info.experiment_id
    parents = client.search_runs([experiment], "tags.kind = 'tuning dlinear' AND tags.`mlflow.runName` LIKE 'tuning%'")
    assert sorted(run.info.status for run in parents) == ["FINISHED", "KILLED"]


def _complete(home: Installation) -> int:
    """Count complete trials without touching those that run."""
    with closing(sqlite3.connect(home.home.path / "ledger.db")) as connection:
        try:
            return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
        except sqlite3.OperationalError:  # the table is not made yet
            return 0


@pytest.mark.parametrize(
    ("model", "minutes", "code"),
    [
        ("dlinaer", 1.0, "model.unknown"),
        ("linear", 1.0, "tuning.nothing_to_tune"),
        ("chronos_2", 1.0, "tuning.nothing_to_tune"),
        ("dlinear", 0.0, "tuning.no_time"),
        ("dlinear", float("nan"), "tuning.no_time"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(home: Installation, model: str, minutes: float, code: str) -> None:
    with pytest.raises(ForecastError) as caught:
        search(home, model, minutes)
    assert caught.value.code == code
