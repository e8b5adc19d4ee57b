"""Properties of every model of the catalogue; the service relies on each of them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput

from models import CATALOG, TRAINABLE, BuildRequest, ModelError, ModelName

every_model = pytest.mark.parametrize("name", TRAINABLE)
LOOKBACK, HORIZON, TARGETS = 26, 8, 3


def test_the_catalogue_holds_every_name_once() -> None:
    assert list(CATALOG) == list(ModelName)
    assert all(spec.name is name for name, spec in CATALOG.items())
    assert {CATALOG[name].family for name in TRAINABLE} == {"baseline", "network"}


def test_listing_the_models_imports_no_torch() -> None:
    code = "import sys, models.catalog; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@every_model
def test_forecasts_have_the_promised_shape_and_are_finite(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any], forecast: Callable[..., np.ndarray]
) -> None:
    values = forecast(fitted(name), panel)
    outputs = 3 if CATALOG[name].family == "network" else 1
    assert values.shape == (2, HORIZON, TARGETS * outputs)
    assert np.isfinite(values).all()


@every_model
def test_a_saved_model_forecasts_the_same_after_safe_loading(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any], forecast: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    model = fitted(name)
    path = str(tmp_path / "model.pt")
    model.save(path, clean=True)
    loaded = type(model).load(path, pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False})
    np.testing.assert_array_equal(forecast(loaded, panel), forecast(model, panel))


@every_model
def test_the_same_seed_gives_the_same_bits(
    name: ModelName,
    panel: Any,
    fitted: Callable[[ModelName], Any],
    tiny: Callable[..., Any],
    forecast: Callable[..., np.ndarray],
) -> None:
    again = tiny(name).fit(panel.series, **panel.covariates, verbose=False)
    np.testing.assert_array_equal(forecast(again, panel), forecast(fitted(name), panel))


@every_model
def test_a_backtest_repeats_the_single_forecast(
    name: ModelName, panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    model = fitted(name)
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    raw = {"predict_likelihood_parameters": model.likelihood is not None, "verbose": False}
    history = panel.series[0]
    backtest = model.historical_forecasts(
        history, **covariates, forecast_horizon=HORIZON, stride=11, retrain=False, last_points_only=False, **raw
    )
    origin = backtest[2].start_time()
    single = model.predict(HORIZON, series=history.drop_after(origin), **covariates, **raw)
    np.testing.assert_allclose(single.values(), backtest[2].values(), atol=1e-5)


@every_model
def test_a_model_fits_and_forecasts_without_any_covariate(
    name: ModelName, panel: Any, tiny: Callable[..., Any]
) -> None:
    model = tiny(name, max_epochs=1).fit(panel.series, verbose=False)
    forecasts = model.predict(HORIZON, series=panel.series, verbose=False)
    assert all(np.isfinite(forecast.values()).all() for forecast in forecasts)


@every_model
def test_constant_windows_give_finite_forecasts(name: ModelName, fitted: Callable[[ModelName], Any]) -> None:
    module = fitted(name).model.eval()
    for level in (0.0, 1.0, -50.0):
        inputs = PLModuleInput(
            past_target=torch.full((2, LOOKBACK, 3), level),
            past_covariates=torch.full((2, LOOKBACK, 2), level),
            historic_future_covariates=torch.zeros(2, LOOKBACK, 3),
            future_covariates=torch.zeros(2, HORIZON, 3),
        )
        with torch.no_grad():
            assert module(inputs).prediction.isfinite().all()


@every_model
def test_training_on_constant_series_stays_finite(name: ModelName, panel: Any, tiny: Callable[..., Any]) -> None:
    flat = [series * 0 + 2 for series in panel.series]
    model = tiny(name, max_epochs=1).fit(flat, **panel.covariates, verbose=False)
    forecasts = model.predict(HORIZON, series=flat, **panel.covariates, verbose=False)
    assert all(np.isfinite(forecast.values()).all() for forecast in forecasts)


@every_model
def test_future_targets_cannot_change_the_forecast(name: ModelName, fitted: Callable[[ModelName], Any]) -> None:
    module = fitted(name).model.eval()
    generator = torch.Generator().manual_seed(3)
    sizes = {
        "past_target": (LOOKBACK, 3),
        "past_covariates": (LOOKBACK, 2),
        "historic_future_covariates": (LOOKBACK, 3),
        "future_covariates": (HORIZON, 3),
    }
    inputs = {key: torch.randn(2, *size, generator=generator) for key, size in sizes.items()}
    with torch.no_grad():
        blind = module(PLModuleInput(**inputs)).prediction
        for future_target in (torch.zeros(2, HORIZON, 3), torch.full((2, HORIZON, 3), float("nan"))):
            seen = module(PLModuleInput(**inputs, future_target=future_target)).prediction
            assert torch.equal(blind, seen)


@every_model
def test_an_unknown_option_is_refused_with_the_nearest_one(name: ModelName, tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="has no option 'widht'") as caught:
        tiny(name, options={"widht": 3})
    assert caught.value.code == "model.unknown_option"
    if name in {ModelName.ITRANSFORMER, ModelName.PATCH_TSMIXER}:
        assert "did you mean 'width'" in str(caught.value)


@every_model
def test_every_option_has_a_name_and_can_be_given(name: ModelName, tiny: Callable[..., Any]) -> None:
    options = CATALOG[name].option_names()
    assert "input_chunk_length" not in options
    if "learning_rate" in options:
        assert tiny(name, options={"learning_rate": 0.01}).pl_module_params["optimizer_kwargs"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lookback": 0}, "model.lookback_too_short"),
        ({"horizon": 0}, "model.horizon_too_short"),
        ({"season": 0}, "model.option_out_of_range"),
        ({"batch_size": 0}, "model.option_out_of_range"),
        ({"quantiles": (0.1, 0.9)}, "model.unusable_quantiles"),
        ({"quantiles": (0.9, 0.5, 0.1)}, "model.unusable_quantiles"),
        ({"quantiles": (0.1, 0.5, 0.8)}, "model.unusable_quantiles"),
        ({"quantiles": (0.0, 0.5, 1.0)}, "model.unusable_quantiles"),
    ],
)
def test_a_request_that_no_model_can_serve_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        BuildRequest(**{"lookback": 24, "horizon": 8, **changes})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        (ModelName.ITRANSFORMER, {"width": 30, "heads": 8}, "model.width_not_divisible"),
        (ModelName.ITRANSFORMER, {"dropout": 1.0}, "model.option_out_of_range"),
        (ModelName.ITRANSFORMER, {"preset": "best"}, "model.option_out_of_range"),
        (ModelName.ITRANSFORMER, {"learning_rate": -1.0}, "model.option_out_of_range"),
        (ModelName.PATCH_TSMIXER, {"patch_length": 27}, "model.lookback_too_short"),
        (ModelName.PATCH_TSMIXER, {"layers": 0}, "model.option_out_of_range"),
        (ModelName.SEASONAL_NAIVE, {"season": 27}, "model.season_too_long"),
        (ModelName.LINEAR, {"ridge": -1.0}, "model.option_out_of_range"),
        (ModelName.LINEAR, {"level": "median"}, "model.option_out_of_range"),
        (ModelName.DLINEAR, {"kernel_size": 0}, "model.option_out_of_range"),
        (ModelName.NLINEAR, {"learning_rate": 0.0}, "model.option_out_of_range"),
        (ModelName.TIDE, {"hidden_size": 0}, "model.option_out_of_range"),
        (ModelName.TIDE, {"temporal_width_past": -1}, "model.option_out_of_range"),
        (ModelName.TIDE, {"dropout": 1.0}, "model.option_out_of_range"),
        (ModelName.N_HITS, {"num_stacks": 0}, "model.option_out_of_range"),
        (ModelName.N_HITS, {"activation": "Step"}, "model.option_out_of_range"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_when_built(
    name: ModelName, options: dict[str, Any], code: str, tiny: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        tiny(name, options=options)
    assert caught.value.code == code


def test_point_forecasts_need_no_quantiles(panel: Any, tiny: Callable[..., Any]) -> None:
    model = tiny(ModelName.ITRANSFORMER, quantiles=(), max_epochs=1).fit(panel.series[0], verbose=False)
    assert model.predict(HORIZON, verbose=False).values().shape == (HORIZON, TARGETS)
