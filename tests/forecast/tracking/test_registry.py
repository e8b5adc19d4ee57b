from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from forecast.errors import StorageError
from forecast.home import Home
from forecast.scheduling.supervisor import Supervisor
from forecast.tracking.registry import Registry
from forecast.tracking.runs import TrackedRun

Runs = Callable[[Home, str], dict[str, Any]]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


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
    for _ in range(2):  # idempotent
        registry.mirror(dataset, "v2", "v1")
        assert registry.aliases(dataset) == {"champion": "v2", "previous": "v1"}
    registry.mirror(dataset, "v1", "v2")  # rolled back
    assert registry.aliases(dataset) == {"champion": "v1", "previous": "v2"}
    registry.mirror(dataset, "of-another-server", "v1")
    assert registry.aliases(dataset) == {"previous": "v1"}, "no alias points at an outdated version"


def test_a_version_is_registered_once_with_its_origin(tracking_home: Home, dataset: str, runs: Runs) -> None:
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
    ids=["no server", "no such kind", "no database", "no such folder"],
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
    monkeypatch.chdir(tmp_path)  # MLflow creates a folder named "file:"
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


def test_the_user_can_set_the_retries_of_mlflow(local: Home, monkeypatch: pytest.MonkeyPatch) -> None:
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
    run = client.get_run(version.run_id)
    assert run.data.metrics["live/mae/1-24"] == 0.25
    assert run.info.status == "FINISHED"
