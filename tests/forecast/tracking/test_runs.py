from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from forecast.errors import StorageError
from forecast.home import Home
from forecast.plots.charts import by_lead
from forecast.tracking.entities import Lineage
from forecast.tracking.registry import Registry

Runs = Callable[[Home, str], dict[str, Any]]
DATA = Lineage("tiny", "5" * 64, "/lake/tiny/observations", 7, ("load", "price"), "training")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.slow
def test_a_night_and_its_children_are_logged_alike_in_a_file_and_on_a_server(
    tracking_home: Home, dataset: str, runs: Runs
) -> None:
    home = tracking_home
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    with Registry(home).night(dataset, "night", {"origins_digest": "abc"}) as night:
        good, bad = night.open("linear"), night.open("informer", {"trial": 3})
        assert runs(home, dataset)["linear"].info.status == "RUNNING", "a run is open while its model trains"
        good.read(DATA)
        good.log(params={"seed": 1}, metrics={"accuracy/pinball": 0.5, "accuracy/mase": float("nan")}, data=DATA)
        good.log(curves={"loss/val": [3.0, 2.0, 1.0]})
        good.table({"channel": ["load", "price"], "mae": [1.0, 2.0]}, "scores.json")
        good.figure(by_lead("pinball", "deviations", {"linear": [1.0, 2.0]}), "figures/1 lead.html")
        good.end()
        bad.end("FAILED", "[training.diverged] the loss exploded")
    found = runs(home, dataset)
    parent = found["night"].info.run_id
    assert {name: run.info.status for name, run in found.items()} == {
        "night": "FINISHED", "linear": "FINISHED", "informer": "FAILED",
    }  # fmt: skip
    assert {run.data.tags["origins_digest"] for run in found.values()} == {"abc"}
    assert {found[name].data.tags["mlflow.parentRunId"] for name in ("linear", "informer")} == {parent}
    assert found["informer"].data.tags["failure"] == "[training.diverged] the loss exploded"
    assert "the loss exploded" in found["informer"].data.tags["mlflow.note.content"]
    linear = found["linear"]
    assert linear.data.params == {"seed": "1"}
    assert linear.data.metrics == {"accuracy/pinball": 0.5, "loss/val": 1.0}
    history = client.get_metric_history(linear.info.run_id, "loss/val")
    assert sorted((point.step, point.value) for point in history) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    (read,) = linear.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("tiny", "5" * 36)
    assert '"delta_table_version": 7' in read.dataset.source
    assert [tag.value for tag in read.tags] == ["training"]
    assert {item.path for item in client.list_artifacts(linear.info.run_id)} == {"figures", "scores.json"}


def test_a_figure_weighs_kilobytes_and_finds_its_script_with_the_night(
    tracking_home: Home, dataset: str, tmp_path: Path, runs: Runs
) -> None:
    home = tracking_home
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    with Registry(home).night(dataset, "night", {}) as night:
        for name in ("linear", "informer"):
            night.open(name).figure(by_lead("pinball", "deviations", {name: list(range(336))}), "figures/lead.html")
    for name in ("linear", "informer"):
        run = runs(home, dataset)[name].info.run_id
        text = Path(client.download_artifacts(run, "figures/lead.html", str(tmp_path))).read_text(encoding="utf-8")
        assert len(text) < 30_000
        assert f"/get-artifact?run_uuid={night.run_id}\\u0026path=figures/plotly.mjs" in text
    (script,) = [item for item in client.list_artifacts(night.run_id, "figures") if item.path.endswith(".mjs")]
    assert (script.file_size or 0) > 1_000_000


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(143), "KILLED", "interrupted"),
        (StorageError("lake.corrupt", "a file is damaged", "restore it"), "FAILED", "[lake.corrupt] a file is damaged"),
        (MemoryError(), "FAILED", "[internal] MemoryError"),
    ],
    ids=["Ctrl-C", "SIGTERM", "error", "out of memory"],
)
def test_an_interrupted_night_leaves_no_run_open(
    local: Home, dataset: str, error: BaseException, status: str, message: str, runs: Runs
) -> None:
    home = local

    def interrupted() -> None:
        with Registry(home).night(dataset, "night", {}) as night:
            night.open("done").end()
            night.open("open")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    found = runs(home, dataset)
    assert {name: run.info.status for name, run in found.items()} == {
        "night": status, "open": status, "done": "FINISHED",
    }  # fmt: skip
    assert {found[name].data.tags["failure"][: len(message)] for name in ("night", "open")} == {message}
    assert "failure" not in found["done"].data.tags


def test_the_next_night_ends_the_runs_of_a_killed_one(local: Home, dataset: str, runs: Runs) -> None:
    left = (
        "import os, sys\nfrom pathlib import Path\nfrom forecast.tracking.registry import Registry\n"
        "from forecast.home import Home\n"
        "registry = Registry(Home(Path(sys.argv[1])))\n"
        "name = sys.argv[2]\n"
        "with registry.night(name, 'killed', {}) as night, registry.night(name, 'search', {}, 'tuning'):\n"
        "    night.open('linear')\n    os.kill(os.getpid(), 9)\n"
    )
    home = local
    assert subprocess.run([sys.executable, "-c", left, local.path, dataset], check=False).returncode == -9
    assert {run.info.status for run in runs(home, dataset).values()} == {"RUNNING"}
    with Registry(home).night(dataset, "next", {}):
        pass
    assert {name: run.info.status for name, run in runs(home, dataset).items()} == {
        "killed": "KILLED", "linear": "KILLED", "next": "FINISHED",
        "search": "RUNNING",  # it may run beside a night
    }  # fmt: skip
