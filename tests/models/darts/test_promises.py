"""Every model of the catalogue keeps the promises of darts models."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models import GaussianLikelihood, LaplaceLikelihood
from darts.utils.onnx import run_onnx_prediction
from onnxruntime import InferenceSession

from models import CATALOG, ModelName
from models.catalog import TRAINABLE

every_model = pytest.mark.parametrize("name", TRAINABLE)
NETWORKS = [name for name, spec in CATALOG.items() if spec.family == "network"]
every_network = pytest.mark.parametrize("name", NETWORKS)
LOOKBACK, HORIZON, TARGETS = 26, 8, 3
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def build(tiny_options: Callable[[ModelName], Mapping[str, Any]]) -> Callable[..., Any]:
    """Build a tiny model as a darts user does, by its class."""

    def construct(name: ModelName, shift: int = 0, **arguments: Any) -> Any:
        given = {"batch_size": 16, "n_epochs": 1, "random_state": 7, "pl_trainer_kwargs": QUIET}
        return CATALOG[name].model_class()(LOOKBACK, HORIZON, shift, **{**given, **tiny_options(name), **arguments})

    return construct


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def assert_same_weights(one: Any, other: Any) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


@every_model
def test_one_channel_is_a_series_too(name: ModelName, panel: Any, build: Callable[..., Any]) -> None:
    series = panel.series[0].univariate_component(0)
    model = build(name).fit(series, verbose=False)
    assert model.predict(HORIZON, verbose=False).n_components == 1


@every_model
def test_a_horizon_beyond_the_trained_one_is_reached_by_feeding_forecasts_back(
    name: ModelName, panel: Any, build: Callable[..., Any]
) -> None:
    model = build(name).fit(panel.series, verbose=False)
    history = panel.series[0]
    far = model.predict(2 * HORIZON, series=history, verbose=False)
    near = model.predict(HORIZON, series=history, verbose=False)
    np.testing.assert_allclose(far.values()[:HORIZON], near.values(), atol=1e-6)
    again = model.predict(HORIZON, series=history.append(near), verbose=False)
    np.testing.assert_allclose(far.values()[HORIZON:], again.values(), atol=1e-4)


@every_model
def test_a_gap_between_look_back_and_forecast_shifts_the_forecast(
    name: ModelName, panel: Any, build: Callable[..., Any]
) -> None:
    model = build(name, shift=3).fit(panel.series, **panel.covariates, verbose=False)
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    forecast = model.predict(HORIZON, series=panel.series[0], **covariates, verbose=False)
    assert forecast.start_time() == panel.series[0].end_time() + 4 * panel.series[0].freq
    assert np.isfinite(forecast.values()).all()


@pytest.mark.slow
@every_model
def test_both_precisions_train_and_forecast_in_their_own(
    name: ModelName, panel: Any, build: Callable[..., Any]
) -> None:
    for precision in (np.float32, np.float64):
        series = [one.astype(precision) for one in panel.series]
        model = build(name).fit(series, verbose=False)
        assert model.predict(HORIZON, series=series[0], verbose=False).dtype == precision


@pytest.mark.parametrize(
    ("name", "likelihood"),
    # A network reads only the number of a likelihood's parameters: both of these have two.
    [*((name, GaussianLikelihood()) for name in NETWORKS), (ModelName.ITRANSFORMER, LaplaceLikelihood())],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_any_likelihood_of_darts_can_be_trained(
    name: ModelName, likelihood: Any, panel: Any, build: Callable[..., Any]
) -> None:
    model = build(name, likelihood=likelihood).fit(panel.series, **panel.covariates, verbose=False)
    samples = model.predict(
        HORIZON,
        series=panel.series[0],
        num_samples=20,
        **{key: value[0] for key, value in panel.covariates.items()},
        verbose=False,
    )
    assert samples.n_samples == 20
    assert np.isfinite(samples.all_values()).all()


@every_network
def test_quantiles_are_trained_to_differ(name: ModelName, fitted: Callable[[ModelName], Any], panel: Any) -> None:
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    forecast = fitted(name).predict(
        HORIZON, series=panel.series[0], **covariates, predict_likelihood_parameters=True, verbose=False
    )
    levels = forecast.values().reshape(HORIZON, TARGETS, 3)
    assert (levels[..., 2] != levels[..., 0]).all()


@every_network
def test_dartss_own_instance_norm_can_be_used_as_well(name: ModelName, panel: Any, build: Callable[..., Any]) -> None:
    model = build(name, use_reversible_instance_norm={"affine": True}).fit(panel.series, verbose=False)
    assert np.isfinite(model.predict(HORIZON, series=panel.series[0], verbose=False).values()).all()


@every_network
def test_static_covariates_are_taken_per_series_and_per_channel(
    name: ModelName, panel: Any, build: Callable[..., Any]
) -> None:
    for rows in (1, TARGETS):
        table = pd.DataFrame({"size": np.arange(rows, dtype=float), "kind": 1.0})
        series = [one.with_static_covariates(table + i) for i, one in enumerate(panel.series)]
        model = build(name).fit(series, **panel.covariates, verbose=False)
        forecasts = model.predict(HORIZON, series=series, **panel.covariates, verbose=False)
        assert all(np.isfinite(forecast.values()).all() for forecast in forecasts)


@every_network
def test_windows_without_weight_have_no_influence(name: ModelName, panel: Any, build: Callable[..., Any]) -> None:
    """Spoilt steps at the end change nothing if their weight is 0 and no other window looks back on them."""
    clean = panel.series[0]
    spoilt = clean.drop_after(clean.time_index[-HORIZON]).append(clean[-HORIZON:] * 0 + 1000)
    ones = np.ones((len(clean), TARGETS), dtype=np.float32)
    ones[-HORIZON:] = 0
    weight = TimeSeries.from_times_and_values(clean.time_index, ones)
    models = [build(name).fit(series, sample_weight=weight, verbose=False) for series in (clean, spoilt)]
    assert_same_weights(*models)


# resuming goes on in a folder that holds checkpoints, as it should
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
@every_network
def test_an_interrupted_training_ends_as_the_uninterrupted_one(
    name: ModelName, panel: Any, build: Callable[..., Any], tmp_path: Path
) -> None:
    def begin(epochs: int, folder: str) -> Any:
        return build(name, n_epochs=epochs, work_dir=str(tmp_path), model_name=folder, save_checkpoints=True)

    data = {
        "series": panel.series,
        "val_series": panel.series,
        **panel.covariates,
        **{f"val_{kind}": covariates for kind, covariates in panel.covariates.items()},
    }
    at_once = begin(2, "at-once").fit(**data, verbose=False)
    begin(1, "resumed").fit(**data, verbose=False)
    kind = CATALOG[name].model_class()
    resumed = kind.load_from_checkpoint("resumed", work_dir=str(tmp_path), best=False)
    resumed.fit(**data, epochs=2, verbose=False)
    assert resumed.epochs_trained == at_once.epochs_trained == 2
    assert_same_weights(resumed, at_once)


@pytest.mark.slow
@every_network
def test_fine_tuning_starts_from_the_weights_that_are_there(
    name: ModelName, panel: Any, build: Callable[..., Any], tmp_path: Path
) -> None:
    source = build(name).fit(panel.series, **panel.covariates, verbose=False)
    source.save(str(tmp_path / "source.pt"), clean=True)
    tuned = build(name, learning_rate=1e-12)
    tuned.load_weights(str(tmp_path / "source.pt"))
    tuned.fit(panel.series, **panel.covariates, verbose=False)
    for key, tensor in weights(source).items():
        if tensor.is_floating_point() and "running" not in key and "averaged" not in key:  # these follow the weights
            torch.testing.assert_close(weights(tuned)[key], tensor, atol=1e-6, rtol=0)


# torch warns of names of its own that it uses itself
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
# One of each origin. darts traces the same module as `export_onnx`, with one window in place of two, which
# test_export.py does with every model.
@pytest.mark.parametrize("name", [ModelName.LINEAR, ModelName.N_HITS, ModelName.INFORMER])
def test_dartss_own_onnx_export_gives_the_forecast_without_torch(
    name: ModelName, panel: Any, build: Callable[..., Any], tmp_path: Path
) -> None:
    series, covariates = panel.series[0], {key: value[0] for key, value in panel.covariates.items()}
    model = build(name).fit(series, **covariates, verbose=False)
    path = str(tmp_path / "model.onnx")
    model.to_onnx(path)
    expected = model.predict(HORIZON, series=series, **covariates, verbose=False)
    served = run_onnx_prediction(HORIZON, InferenceSession(path), series, **covariates, verbose=False)
    np.testing.assert_allclose(served.values(), expected.values(), atol=1e-4)


@every_model
def test_mlflow_keeps_the_model_and_gives_it_back(
    name: ModelName,
    panel: Any,
    fitted: Callable[[ModelName], Any],
    forecast: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    from darts.utils.mlflow import load_model, save_model

    model = fitted(name)
    save_model(model, str(tmp_path / "flavour"))
    loaded = load_model(str(tmp_path / "flavour"))
    np.testing.assert_array_equal(forecast(loaded, panel), forecast(model, panel))


@every_model
def test_missing_values_are_named_before_anything_is_trained(
    name: ModelName, panel: Any, build: Callable[..., Any]
) -> None:
    values = panel.series[0].values().copy()
    values[40, 1] = np.nan
    holed = panel.series[0].with_values(values)
    with pytest.raises(
        ValueError, match=r"series 1 has 1 missing values .* the first of 'b' at 2024-01-02 16:00"
    ) as caught:
        build(name).fit([panel.series[1], holed], verbose=False)
    assert caught.value.code == "model.missing_values"


@every_model
def test_a_hole_in_the_window_is_named_at_prediction(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    values = panel.series[0].values().copy()
    values[-3, 2] = np.nan
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    with pytest.raises(ValueError, match="the first of 'c'") as caught:
        fitted(name).predict(HORIZON, series=panel.series[0].with_values(values), **covariates, verbose=False)
    assert caught.value.code == "model.missing_values"
    old = panel.series[0].values().copy()
    old[0] = np.nan  # no window of this forecast reads it
    fitted(name).predict(HORIZON, series=panel.series[0].with_values(old), **covariates, verbose=False)


@every_model
def test_another_number_of_channels_at_prediction_is_named(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    narrow = panel.series[0][["a", "b"]]
    with pytest.raises(ValueError, match=r"has 2 channels, but .* was fitted for 3") as caught:
        fitted(name).predict(HORIZON, series=narrow, verbose=False)
    assert caught.value.code == "model.channel_count"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give an empty MLflow store; creating one takes seconds, so all models share it."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@every_network
def test_mlflow_logs_a_training_by_itself(
    name: ModelName,
    panel: Any,
    build: Callable[..., Any],
    tracking: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow
    from darts.utils.mlflow import autolog

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(tracking)
    autolog()
    try:
        with mlflow.start_run() as run:
            build(name).fit(panel.series[0], verbose=False)
    finally:
        autolog(disable=True)
    logged = mlflow.get_run(run.info.run_id).data
    assert logged.params["input_chunk_length"] == str(LOOKBACK)
    assert "train_loss" in logged.metrics
