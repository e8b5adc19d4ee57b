from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from forecast.errors import StorageError
from forecast.home import Home
from forecast.plots.charts import by_lead
from forecast.scheduling.supervisor import Supervisor
from forecast.tracking.entities import Lineage
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedRun

DATA = Lineage("tiny", "5" * 64, "/lake/tiny/observations", 7, ("load", "price"), "training")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def local(tmp_path: Path, tracking_database: Path) -> Home:
    shutil.copyfile(tracking_database, tmp_path / "mlflow.db")
    return Home(tmp_path)


@pytest.fixture
def dataset(request: pytest.FixtureRequest) -> str:
    """A data set of the test's own."""
    return f"tiny-{abs(hash(request.node.name)):x}"


def runs(home: Home, dataset: str) -> dict[str, Any]:
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    experiment = client.get_experiment_by_name(dataset)
    assert experiment is not None
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.slow
def test_a_night_and_its_children_are_logged_alike_in_a_file_and_on_a_server(tracking_home: Home, dataset: str) -> None:
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
    tracking_home: Home, dataset: str, tmp_path: Path
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
def test_a_night_that_is_broken_off_leaves_no_run_open(
    local: Home, dataset: str, error: BaseException, status: str, message: str
) -> None:
    home = local

    def broken_off() -> None:
        with Registry(home).night(dataset, "night", {}) as night:
            night.open("done").end()
            night.open("open")
            raise error

    with pytest.raises(type(error)):
        broken_off()
    found = runs(home, dataset)
    assert {name: run.info.status for name, run in found.items()} == {
        "night": status, "open": status, "done": "FINISHED",
    }  # fmt: skip
    assert {found[name].data.tags["failure"][: len(message)] for name in ("night", "open")} == {message}
    assert "failure" not in found["done"].data.tags


def test_the_next_night_ends_what_a_killed_one_left_open(local: Home, dataset: str) -> None:
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
        "search": "RUNNING",  # it may go on beside a night
    }  # fmt: skip


def registered(registry: Registry, dataset: str, *versions: str) -> None:
    with registry.night(dataset, "night", {}) as night:
        run = night.open("linear")
        for version in versions:
            model = _log_something(run)
            registry.register(dataset, run, model, version, f"{version} is better", {"data_version": 3})


def _log_something(run: TrackedRun) -> str:
    return run.log_saved("linear", Path(__file__).parent)


def test_aliases_follow_the_ledger_there_and_back(tracking_home: Home, dataset: str) -> None:
    registry = Registry(tracking_home)
    assert registry.aliases(dataset) == {}
    registered(registry, dataset, "v1")
    assert registry.aliases(dataset) == {"challenger": "v1"}
    registry.mirror(dataset, "v1", None)
    assert registry.aliases(dataset) == {"champion": "v1"}
    registered(registry, dataset, "v2")
    assert registry.aliases(dataset) == {"champion": "v1", "challenger": "v2"}
    for _ in range(2):  # twice changes nothing
        registry.mirror(dataset, "v2", "v1")
        assert registry.aliases(dataset) == {"champion": "v2", "previous": "v1"}
    registry.mirror(dataset, "v1", "v2")  # rolled back
    assert registry.aliases(dataset) == {"champion": "v1", "previous": "v2"}
    registry.mirror(dataset, "of-another-server", "v1")
    assert registry.aliases(dataset) == {"previous": "v1"}, "no alias says what is not so"


def test_a_version_is_registered_once_with_its_origin(tracking_home: Home, dataset: str) -> None:
    home = tracking_home
    registry = Registry(home)
    registered(registry, dataset, "v1", "v1")
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    (version,) = client.search_model_versions(f"name = '{dataset}'")
    assert version.tags == {"model_version": "v1", "data_version": "3"}
    assert version.description == "v1 is better"
    assert version.run_id == runs(home, dataset)["linear"].info.run_id


def refused(call: Callable[[], object], seconds: float) -> str:
    """The sentence of the ``tracking.failed`` that a call raises within some seconds."""
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        call()
    assert time.monotonic() - began < seconds
    assert caught.value.code == "tracking.failed"
    assert "MLFLOW_TRACKING_URI" in caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9", "nonsense://host/db", "postgresql://nobody:secret@127.0.0.1:9/mlflow", "sqlite:////proc/mlflow.db",
    ],
    ids=["nobody listens", "no such kind", "no database", "no such folder"],
)  # fmt: skip
def test_an_unreachable_tracking_server_is_an_error_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def open_a_night() -> None:
        with Registry(Home(tmp_path)).night("tiny", "night", {}):
            pytest.fail("nothing may go on without MLflow")

    assert "secret" not in refused(open_a_night, 20)


def test_a_read_only_database_is_an_error_and_leaves_nothing_half_written(
    local: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry(local).night("readable", "night", {}):
        pass
    monkeypatch.chdir(tmp_path)  # MLflow takes "file:" for a folder and makes it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{local.path}/mlflow.db?mode=ro&uri=true")

    def open_a_night() -> None:
        with Registry(Home(tmp_path)).night("readable", "another", {}):
            pytest.fail("nothing may go on without MLflow")

    assert "readonly" in refused(open_a_night, 20)
    with sqlite3.connect(local.path / "mlflow.db") as database:
        assert database.execute("select count(*) from runs where name = 'another'").fetchone() == (0,)


@pytest.mark.slow
def test_a_server_that_dies_between_two_models_ends_the_night_with_its_name(
    tracking_server: Callable[[Path], AbstractContextManager[tuple[str, Supervisor]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracking_server(tmp_path) as (url, supervisor):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)

        def night() -> None:
            with Registry(Home(tmp_path)).night("tiny", "night", {}) as night:
                night.open("linear").end()
                supervisor.stop()
                night.open("informer")

        assert "Connection" in refused(night, 30)


def test_limits_of_patience_may_be_set_by_the_user(local: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    Registry(local)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 30


def test_live_scores_are_logged_on_the_version_and_its_run(tracking_home: Home, dataset: str) -> None:
    registry = Registry(tracking_home)
    assert not registry.live(dataset, "linear-1", {"live/mae/1-24": 0.5}, {})
    registered(registry, dataset, "linear-1")
    for mae in (0.5, 0.25):
        assert registry.live(dataset, "linear-1", {"live/mae/1-24": mae}, {"live/values": 10})
    client = MlflowClient(tracking_home.tracking_uri, tracking_home.tracking_uri)
    (version,) = client.search_model_versions(f"name = '{dataset}'")
    assert (version.tags["live/mae/1-24"], version.tags["live/values"]) == ("0.25", "10")
    message = client.get_run(version.run_id)
    assert message.data.metrics["live/mae/1-24"] == 0.25
    assert message.info.status == "FINISHED"
