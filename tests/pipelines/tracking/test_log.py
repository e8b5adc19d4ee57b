from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from forecast.config.dataset import DatasetConfig
from forecast.config.training import PromotionPolicy
from forecast.evaluation.promotion import Verdict, decide
from forecast.evaluation.scores import Evidence, Yardstick
from forecast.home import Home
from forecast.panel import Panel
from forecast.progress import Step
from forecast.runtime.manifest import NETWORK, Manifest
from forecast.runtime.model import load
from forecast.runtime.precision import Variant, Variants
from forecast.runtime.smoke_test import smoke_test
from forecast.tracking.entities import DARTS
from forecast.tracking.registry import Registry
from pipelines.preparation.darts_series import fit_scaler, to_darts
from pipelines.preparation.slices import Slices
from pipelines.preparation.windows import Windows, cut
from pipelines.tracking.log import (
    curves,
    lineage,
    log_candidate,
    log_comparison,
    log_task,
    night_tags,
    numbers,
    precisions,
    version_tags,
)
from pipelines.training.backtest import evidence_of
from pipelines.training.candidates import Candidate, Task, train_candidate
from pipelines.training.fit import Fitted

MOST_METRICS = 60  # keys per run; beyond them MLflow's pages become slow
BOTH = Variants(
    float32=Variant(size_mb=4.0, latency_ms=2.0, loss=0.5), int8=Variant(size_mb=1.0, latency_ms=1.5, loss=0.505)
)
StoreModel = Callable[..., Manifest]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def holdout(tiny_config: DatasetConfig, tiny_panel: Callable[..., Panel]) -> tuple[Panel, Slices, Windows]:
    panel = tiny_panel(tiny_config)
    slices = Slices.of(panel, tiny_config)
    return panel, slices, cut(panel, tiny_config, slices.calibration, slices.holdout)


def candidate(folder: Path, panel: Panel, slices: Slices, windows: Windows, config: DatasetConfig) -> Candidate:
    """What comes of a training whose network repeats the last value."""
    served = load(folder)
    yardstick = Yardstick.fit(panel, fit_scaler(panel, config, slices.fit), config.season, slices.fit)
    evidence = evidence_of(served, windows, yardstick, config, smoke_test(served, folder / NETWORK))
    fitted = Fitted(
        model=None, best_loss=0.5, best_epoch=2, epochs=3, windows=120, seconds=4.0, peak_memory_mb=100.0,
        losses={"train_loss": [0.9, 0.7, 0.6], "val_loss": [0.8, 0.5, 0.6]},
        kernels={"selective_scan": "torch: there is no GPU"}, notes=("not compiled: no compiler",),
    )  # fmt: skip
    return Candidate(folder.name, served.manifest, evidence, fitted, {"scratch": 0.6, "warm": 0.5})


@pytest.fixture
def night(
    tracking_home: Home,
    tiny_config: DatasetConfig,
    holdout: tuple[Panel, Slices, Windows],
    store_model: StoreModel,
    tmp_path: Path,
) -> tuple[str, list[Evidence], Verdict]:
    """A whole night as logged to a file or a server: its run, the models' scores and the verdict."""
    panel, slices, windows = holdout
    registry, digest = Registry(tracking_home), panel.digest
    data = lineage("tiny", tiny_config, tmp_path / "lake", 7, digest, windows)
    found: list[Evidence] = []
    with registry.night("tiny", "night", night_tags(7, digest, windows)) as night:
        for name, bias in (("seasonal_naive", 0.0), ("linear", 0.3)):
            store_model(tmp_path / f"{name}-1", tiny_config, model_name=name, bias=bias, variants=BOTH)
            run = night.open(name)
            log_task(run, tiny_config, name, panel, slices, data)
            one = candidate(tmp_path / f"{name}-1", panel, slices, windows, tiny_config)
            model = log_candidate(run, one, tmp_path, windows, panel, tiny_config, data[1])
            run.end()
            found.append(one.evidence)
        ranked = sorted(found, key=lambda one: one.pinball)
        verdict = decide(ranked[0], None, PromotionPolicy(max_coverage_error=1.0))
        log_comparison(night, ranked, verdict, tiny_config, tiny_config.training.baselines)
        about = version_tags(tiny_config, one.evidence, verdict, 7, digest)
        registry.register("tiny", run, model, "linear-1", verdict.sentence, about)
        registry.mirror("tiny", "linear-1", None)
    return night.run_id, found, verdict


@pytest.mark.slow
def test_a_whole_night_is_logged_to_a_file_and_to_a_server_alike(
    tracking_home: Home,
    night: tuple[str, list[Evidence], Verdict],
    holdout: tuple[Panel, Slices, Windows],
    tmp_path: Path,
) -> None:
    run_id, found, verdict = night
    panel, slices, windows = holdout
    client = MlflowClient(tracking_home.tracking_uri, tracking_home.tracking_uri)
    parent = client.get_run(run_id)
    assert verdict.sentence in parent.data.tags["mlflow.note.content"]
    assert json.loads(Path(client.download_artifacts(run_id, "verdict.json")).read_text())["promote"] is True
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert {child.info.status for child in children} == {"FINISHED"}
    assert len({frozenset(child.data.metrics) for child in children}) == 1, "equal keys, or they cannot be compared"
    for tag, value in (("origins_digest", windows.digest), ("data_digest", panel.digest), ("data_version", "7")):
        assert {child.data.tags[tag] for child in children} == {value}
    for child in children:
        evidence = next(one for one in found if one.model_name == child.info.run_name)
        assert child.data.metrics["accuracy/pinball"] == evidence.pinball
        assert child.data.metrics["accuracy_by_horizon/mae.h6"] == evidence.by_horizon[6].mae
        assert child.data.params["split.fit_until"] == f"{panel.time(slices.fit):%Y-%m-%dT%H:%MZ}"
        assert child.data.params["start"] == "scratch"
        assert child.data.params["serves_in"] == "float32"
        assert child.data.tags["precisions"] == BOTH.summary
        assert child.data.metrics["int8/share_of_size"] == 0.25
        assert (child.data.metrics["loss/best_from_warm"], child.data.metrics["loss/best_from_scratch"]) == (0.5, 0.6)
        assert child.data.tags["kernel.selective_scan"] == "torch: there is no GPU"
        assert child.data.tags["env.cores"]
        lead = client.get_metric_history(child.info.run_id, "accuracy_by_lead/pinball")
        assert {point.step: point.value for point in lead} == dict(enumerate(evidence.by_lead["pinball"], 1))
        assert len(client.get_metric_history(child.info.run_id, "loss/train")) == 3
        assert child.inputs is not None
        read = {item.dataset.name: item.dataset.digest for item in child.inputs.dataset_inputs}
        assert read == {"tiny": panel.digest[:36], "tiny holdout": windows.digest[:36]}
        figures = client.list_artifacts(child.info.run_id, "figures")
        assert len(figures) == 4
        assert all(0 < (figure.file_size or 0) < 200_000 for figure in figures)
    version = client.get_model_version_by_alias("tiny", "champion")
    assert (version.tags["model_version"], version.tags["data_version"]) == ("linear-1", "7")
    assert json.loads(version.tags["verdict_numbers"])["challenger"] == verdict.challenger
    assert version.description == verdict.sentence

    mlflow.set_tracking_uri(tracking_home.tracking_uri)
    network = f"models:/{logged(client, children[0], '-onnx')}"
    assert [node.name for node in mlflow.onnx.load_model(network).graph.output] == ["prediction"]
    signature = mlflow.models.get_model_info(network).signature
    assert set(signature.inputs.input_names()) == set(load(tmp_path / "linear-1").inputs)


def logged(client: MlflowClient, run: Any, suffix: str) -> str:
    """The identifier of a model that a run logged."""
    models = (client.get_logged_model(output.model_id) for output in run.outputs.model_outputs)
    return next(str(model.model_id) for model in models if model.name == run.info.run_name + suffix)


def test_no_run_has_more_numbers_than_a_page_shows_however_many_channels(
    make_evidence: Callable[..., Evidence],
) -> None:
    counts = {}
    for count in (1, 4, 5, 50):
        wide = make_evidence(
            horizons=(1, 2, 3, 4, 5, 6, 7, 8), channels={f"c{number}": 1.0 for number in range(count)}, origins=20
        )
        keys = numbers(wide).keys() | curves(wide).keys()
        others = {"loss/train", "loss/val", "loss/best_from_scratch", "loss/best_from_warm", "cost/training_seconds"}
        others |= {"cost/epochs", "cost/peak_memory_mb", "cost/latency_ms", "cost/size_mb"}
        others |= {"cost/windows_per_second", *precisions(BOTH)}
        counts[count] = len(keys | others) + 2  # skill over two baselines
    assert max(counts.values()) <= MOST_METRICS
    assert counts[50] == counts[5]


def test_size_latency_and_loss_of_int8_are_logged_as_shares_of_float32() -> None:
    assert precisions(None) == {}
    shares = {"int8/share_of_size": 0.25, "int8/share_of_latency": 0.75, "int8/share_of_loss": 1.01}
    assert precisions(BOTH) == pytest.approx(shares)


def test_fifty_channels_and_eight_horizons_fit_into_a_run(
    tracking_database: Path, config_with: Callable[..., DatasetConfig], store_model: StoreModel, tmp_path: Path
) -> None:
    home = Home(tracking_database.parent)
    names = [f"c{number:02}" for number in range(50)]
    config = config_with(
        channels={name: {"role": "target"} for name in names},
        horizons=[3, 6, 9, 12, 15, 18, 21, 24],
        zone="Europe/Berlin",
    )
    values = np.random.default_rng(0).normal(40, 10, (2, 400, 50))
    begin = Panel(
        ("east", "west"),
        datetime(2024, 1, 1, tzinfo=UTC),
        timedelta(hours=1),
        values,
        np.empty((2, 400, 0)),
        np.ones((2, 400, 50), bool),
        {},
    )
    slices = Slices.of(begin, config)
    windows = cut(begin, config, slices.calibration, slices.holdout)
    folder = tmp_path / "linear-1"
    store_model(folder, config, model_name="linear")
    one = candidate(folder, begin, slices, windows, config)
    data = lineage("wide", config, tmp_path, 0, "digest", windows)
    with Registry(home).night("wide", "night", night_tags(0, "digest", windows)) as night:
        run = night.open("linear")
        log_task(run, config, "linear", begin, slices, data)
        log_candidate(run, one, tmp_path, windows, begin, config, data[1])
        log_comparison(night, [one.evidence], decide(one.evidence, None, PromotionPolicy()), config, ())
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    assert 30 < len(client.get_run(run.run_id).data.metrics) <= MOST_METRICS
    assert all(0 < (figure.file_size or 0) < 300_000 for figure in client.list_artifacts(run.run_id, "figures"))
    table = json.loads(Path(client.download_artifacts(run.run_id, "scores.json")).read_text(encoding="utf-8"))
    assert [row[:2] for row in table["data"]][8:58] == [["channel", name] for name in names]


def test_a_trained_model_comes_back_from_mlflow_as_the_darts_model_that_it_was(
    tracking_database: Path,
    config_with: Callable[..., DatasetConfig],
    tiny_panel: Callable[..., Panel],
    make_task: Callable[..., Task],
    tmp_path: Path,
) -> None:
    from darts.utils.mlflow import load_model

    home, config = Home(tracking_database.parent), config_with()
    panel = tiny_panel(config)
    task = make_task(config, panel, "linear")
    one = train_candidate(task, tmp_path, Step())
    windows = cut(panel, config, *task.holdout)
    with Registry(home).night("darts", "night", {}) as night:
        run = night.open("linear")
        log_candidate(
            run, one, tmp_path, windows, panel, config, lineage("darts", config, tmp_path, 0, "digest", windows)[1]
        )
    assert not (tmp_path / one.folder / DARTS).exists(), "MLflow has it now"
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    again = load_model(f"models:/{logged(client, client.get_run(run.run_id), '-darts')}")
    known = to_darts(panel, one.manifest.scaler, config, 0, panel.steps, config.lookback + config.horizon)
    origin = config.lookback
    assert known.past is not None
    forecast = again.predict(
        config.horizon, known.targets[0][:origin], past_covariates=known.past[0][:origin],
        future_covariates=known.future[0], show_warnings=False,
    )  # fmt: skip
    first = cut(panel, config, origin, origin + config.horizon)
    served = load(tmp_path / one.folder)
    raw = served.scaled_quantiles(first.targets[:1], first.past[:1], first.future[:1], first.series[:1])
    assert np.allclose(forecast.values(), raw[0, :, :, served.median], atol=1e-4)
