from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from forecast.config.dataset import DatasetConfig
from forecast.errors import StorageError, TrainingError
from forecast.panel import Panel
from forecast.progress import Step
from forecast.runtime.manifest import EVALUATED, MANIFEST, WEIGHTS
from forecast.runtime.model import load as load_model
from forecast.runtime.model import load_evaluated
from pipelines.preparation.darts_series import fit_scaler
from pipelines.training.candidates import Start, Task, _race, refit, start_from, train_candidate
from pipelines.training.checkpoints import save_weights
from pipelines.training.fit import Fitted

MakeTask = Callable[..., Task]
TRAINING = {"max_epochs": 2, "stride": 8, "batch_size": 32}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def config(config_with: Callable[..., DatasetConfig]) -> DatasetConfig:
    return config_with(models=["nlinear"], training=TRAINING)


@pytest.fixture
def tonight(config: DatasetConfig, tiny_panel: Callable[..., Panel], make_task: MakeTask) -> Callable[..., Task]:
    """Return a task of a night with ``hours`` of history."""

    def make(name: str = "nlinear", hours: int = 400, **changes: Any) -> Task:
        return make_task(config, tiny_panel(config, hours), name, **changes)

    return make


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def raced(task: Task) -> tuple[Fitted, Mapping[str, float]]:
    return _race(task, fit_scaler(task.panel, task.config, task.slices.fit), Step())


@pytest.fixture
def start(tonight: Callable[..., Task], tmp_path: Path) -> Start:
    """What the champion of the night before gives to start from."""
    task = tonight(hours=376)
    save_weights(raced(task)[0].model, tmp_path / "w.safetensors")
    return Start("v1", (tmp_path / "w.safetensors").read_bytes(), task.panel.time(task.slices.calibration))


def test_a_candidate_is_scored_on_rows_that_it_has_not_seen_by_the_files_that_serve(
    tonight: Callable[..., Task], models: Path
) -> None:
    task = tonight()
    candidate = train_candidate(task, models, Step())
    manifest = load_model(models / candidate.folder).manifest
    assert manifest == candidate.manifest
    assert manifest.fitted_until == task.panel.time(task.slices.calibration)
    assert not manifest.refitted
    assert candidate.evidence.model_version == manifest.model_version == Path(candidate.folder).name
    assert candidate.evidence.windows == 2 * (72 - 24 + 1)
    assert candidate.evidence.smoke_test.onnx_difference == manifest.onnx_difference > 0
    assert candidate.fitted.model is None
    assert candidate.race == {}

    start, file = start_from(models / candidate.folder), models / candidate.folder / WEIGHTS
    assert start is not None
    assert start.weights == file.read_bytes()
    file.write_bytes(start.weights[:-1] + bytes([start.weights[-1] ^ 1]))
    assert start_from(models / candidate.folder) is None  # they are not what was stored


def test_the_manifest_tells_which_kernels_the_training_ran(
    config_with: Callable[..., DatasetConfig], tonight: Callable[..., Task], models: Path
) -> None:
    small = {"informer": {"width": 8, "feed_forward": 8, "heads": 2, "encoder_layers": 1}}
    config = config_with(models=["informer"], options=small, training=TRAINING | {"max_epochs": 1, "stride": 40})
    candidate = train_candidate(replace(tonight("informer"), config=config), models, Step())
    assert list(candidate.manifest.kernels) == ["prob_sparse_attention"]
    assert candidate.manifest.kernels == candidate.fitted.kernels


def test_a_champion_gives_a_second_start_and_the_better_one_goes_on(tonight: Callable[..., Task], start: Start) -> None:
    alone, _ = raced(tonight())
    fitted, race = raced(tonight(champion=start))
    assert race == {"scratch": alone.best_loss, "warm": fitted.best_loss}
    assert race["warm"] < race["scratch"]
    assert fitted.start == "warm"

    spoiled = {name: tensor * 5 for name, tensor in load(start.weights).items()}
    fitted, race = raced(tonight(champion=replace(start, weights=save(spoiled))))
    assert race["warm"] > race["scratch"] == fitted.best_loss
    assert fitted.start == "scratch"


def test_a_champion_that_has_seen_rows_kept_from_the_fit_gives_no_start(
    tonight: Callable[..., Task], start: Start
) -> None:
    task = tonight()
    seen = replace(start, fitted_until=task.panel.time(task.slices.calibration) + timedelta(hours=1))
    fitted, race = raced(replace(task, champion=seen))
    assert race == {}
    assert "it has seen rows outside this night's fit slice" in fitted.notes[-1]


def test_a_policy_a_solved_model_or_odd_weights_leave_no_race(tonight: Callable[..., Task], start: Start) -> None:
    task = tonight(champion=start)
    never = task.config.training.model_copy(update={"warm_start": False})
    without = replace(task, config=task.config.model_copy(update={"training": never}))
    odd = Start("odd", b"rubbish", task.panel.start)
    for one in (without, tonight("linear", champion=start), replace(task, champion=odd)):
        fitted, race = raced(one)
        assert race == {}
        assert fitted.start == "scratch"


def test_a_refitted_model_has_seen_all_rows_and_keeps_the_one_that_was_scored(
    tonight: Callable[..., Task], models: Path
) -> None:
    task = tonight()
    candidate = train_candidate(task, models, Step())
    folder = refit(candidate, task, models, Step())
    new, scored = load_model(models / folder), load_evaluated(models / folder)
    assert new.manifest.refitted
    assert new.manifest.fitted_until == task.panel.time(task.slices.holdout)
    assert new.manifest.calibration == candidate.manifest.calibration
    assert new.manifest.scaler != candidate.manifest.scaler
    assert scored.manifest == candidate.manifest
    start = start_from(models / folder)
    assert start is not None
    assert start.fitted_until == candidate.manifest.fitted_until  # and so a later night can compare fairly
    assert start.weights == (models / candidate.folder / WEIGHTS).read_bytes()

    manifest = models / folder / EVALUATED / MANIFEST
    manifest.write_text(manifest.read_text().replace('"data_version":0', '"data_version":1'))
    load_model(models / folder)
    with pytest.raises(StorageError) as caught:
        load_evaluated(models / folder)
    assert caught.value.code == "model.corrupt"


def test_a_night_that_was_killed_does_not_train_again_what_it_had_trained(
    tonight: Callable[..., Task], start: Start
) -> None:
    (first, race), (second, again) = (raced(tonight(champion=start)) for _ in range(2))
    assert (first.resumed_after, second.resumed_after) == (0, 2)
    assert (first.start, first.best_loss, race) == (second.start, second.best_loss, again)


def test_a_model_that_cannot_be_trained_leaves_no_files(tonight: Callable[..., Task], models: Path) -> None:
    task = tonight()
    config = task.config.model_copy(update={"options": {"nlinear": {"learning_rate": 1e38}}})
    with pytest.raises(TrainingError) as caught:
        train_candidate(replace(task, config=config), models, Step())
    assert caught.value.code == "training.diverged"
    assert not models.exists()
