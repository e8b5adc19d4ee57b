"""The same work in this process and on a Ray cluster of two cores, started once and always stopped."""

import io
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from rich.console import Console

from forecast.config.dataset import DatasetConfig
from forecast.errors import (
    ConfigError,
    ConflictError,
    DataError,
    ForecastError,
    NotFoundError,
    StorageError,
    TrainingError,
    UnavailableError,
)
from forecast.panel import Panel
from forecast.progress import Reporter, Step
from forecast.runtime.manifest import WEIGHTS
from pipelines.training.candidates import Candidate, Task, train_candidate
from pipelines.training.engines import Engine, LocalEngine, RayEngine

KINDS = (ConfigError, ConflictError, DataError, NotFoundError, StorageError, TrainingError, UnavailableError)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # Ray leaves the sockets and processes of a cluster that it has stopped to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Note:
    """A task that writes a file, fails, or ends its process."""

    title: str
    devices: int = 0
    is_moved: bool = False

    def moved(self, scratch: Path) -> Self:
        return type(self)(f"{self.title} in {scratch}", is_moved=True)


def write(task: Note, folder: Path, step: Step) -> str:
    step.reach(0.5)
    if task.title == "fails":
        raise TrainingError("training.no_window", "there is no window", "bring in more rows")
    if task.title == "dies":
        os._exit(1)
    file = folder / "tiny" / task.title / "deep" / "note.txt"
    file.parent.mkdir(parents=True)
    file.write_text(task.title)
    return task.title.upper()


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray cluster of this machine with two cores."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Workers find this package and the tests as this process does.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
        try:
            yield ray
        finally:
            ray.shutdown()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_whole_from_another_process(kind: type[ForecastError]) -> None:
    error = kind("a.code", "a fact", "a remedy")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here
    assert (type(again), again.code, again.fact, again.remedy) == (kind, "a.code", "a fact", "a remedy")
    assert str(again) == str(error)


def test_here_tasks_are_done_in_order_and_one_that_fails_leaves_the_others(tmp_path: Path, reporter: Reporter) -> None:
    tasks = [Note("a"), Note("fails"), Note("b")]
    done = list(LocalEngine(tmp_path).run(write, tasks, reporter))
    assert [number for number, _ in done] == [0, 1, 2]
    assert [done[0][1], done[2][1]] == ["A", "B"]
    assert isinstance(done[1][1], TrainingError)


def test_an_unreachable_cluster_is_an_error_at_once(
    tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(UnavailableError, match="check RAY_ADDRESS") as caught:
        list(RayEngine(tmp_path).run(write, [Note("a")], reporter))
    assert caught.value.code == "cluster.unreachable"


def test_on_ray_files_come_back_and_a_task_that_fails_or_dies_leaves_the_others(
    ray: Any, tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_CORES", "1")
    tasks = [Note("a"), Note("fails"), Note("dies"), Note("b")]
    done: dict[int, Any] = dict(RayEngine(tmp_path / "models").run(write, tasks, reporter))
    assert ray.is_initialized()  # it was not this engine's to stop
    assert (done[0], done[3]) == ("A", "B")
    assert {number: done[number].code for number in (1, 2)} == {1: "training.no_window", 2: "training.failed"}
    assert done[1].remedy == "bring in more rows"
    files = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert sorted(files) == ["models/tiny/a/deep/note.txt", "models/tiny/b/deep/note.txt"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_models_trained_on_ray_score_as_those_trained_here(
    tmp_path: Path,
    reporter: Reporter,
    config_with: Callable[..., DatasetConfig],
    tiny_panel: Callable[..., Panel],
    make_task: Callable[..., Task],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORECAST_CORES", "1")
    names = ("linear", "nlinear")
    config = config_with(models=names, training={"max_epochs": 1, "stride": 8})
    panel = tiny_panel(config)
    engines: tuple[Engine, Engine] = (LocalEngine(tmp_path / "here"), RayEngine(tmp_path / "there"))
    here, there = (
        dict(
            engine.run(
                train_candidate, [make_task(config, panel, name, checkpoints=folder) for name in names], reporter
            )
        )
        for engine, folder in zip(engines, (tmp_path / "0", tmp_path / "1"), strict=True)
    )
    for number in range(len(names)):
        ours, theirs = here[number], there[number]
        assert isinstance(ours, Candidate)
        assert isinstance(theirs, Candidate)
        apart = {"model_version", "smoke_test"}  # of each training its own: a random suffix, a latency
        assert ours.evidence.model_dump_json(exclude=apart) == theirs.evidence.model_dump_json(exclude=apart)
        assert ours.manifest.calibration == theirs.manifest.calibration
        assert ours.fitted.losses == theirs.fitted.losses
        files = tmp_path / "here" / ours.folder / WEIGHTS, tmp_path / "there" / theirs.folder / WEIGHTS
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.usefixtures("ray")
def test_a_full_disk_for_returned_files_is_an_error(tmp_path: Path, reporter: Reporter) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(StorageError) as caught:
        list(RayEngine(tmp_path / "models").run(write, [Note("a")], reporter))
    assert caught.value.code == "model.not_stored"


def test_without_ray_the_error_has_the_remedy(
    tmp_path: Path, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install "forecast-service\[cluster\]"') as caught:
        list(RayEngine(tmp_path).run(write, [Note("a")], reporter))
    assert caught.value.code == "cluster.not_installed"
