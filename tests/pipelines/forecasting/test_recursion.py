"""Forecasts of any length from the end of a panel, and the errors for incomplete inputs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.evaluation.scores import Yardstick
from forecast.panel import Panel
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import ServedModel, load
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean
from pipelines.preparation.windows import cut
from pipelines.training.backtest import backtest

MakeRows = Callable[..., pl.DataFrame]


@pytest.fixture
def panel(tiny_rows: MakeRows, tiny_config: DatasetConfig) -> Panel:
    rows = tiny_rows().rename({"site": "series"}).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    made = clean(rows, tiny_config)
    return replace(made, targets=made.targets.copy(), past=made.past.copy())  # polars' own arrays cannot be written to


@pytest.fixture
def model(tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., Manifest]) -> ServedModel:
    store_model(tmp_path / "models" / "m", tiny_config, weight=0.7)
    return load(tmp_path / "models" / "m")


def own(model: ServedModel) -> Yardstick:
    """Return a yardstick with the model's own deviations."""
    deviations = {name: moments[1] for name, moments in model.manifest.scaler.targets.items()}
    return Yardstick(deviations, deviations)


def test_a_model_that_repeats_the_last_value_forecasts_the_last_value(
    tmp_path: Path, tiny_config: DatasetConfig, panel: Panel, store_model: Callable[..., Manifest]
) -> None:
    store_model(tmp_path / "models" / "r", tiny_config)
    prediction = extend(load(tmp_path / "models" / "r"), panel, tiny_config, 100)
    assert prediction.mean.shape == (2, 100, 2)
    assert np.allclose(prediction.mean, panel.targets[:, -1:], atol=1e-3)


@pytest.mark.parametrize("steps", [1, 6, 23, 24, 25, 48, 100])
def test_a_shorter_forecast_is_the_beginning_of_a_longer_one(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel, steps: int
) -> None:
    longest, shorter = extend(model, panel, tiny_config, 120), extend(model, panel, tiny_config, steps)
    assert shorter.quantiles.shape == (2, steps, 2, 3)
    assert np.array_equal(shorter.quantiles, longest.quantiles[:, :steps])
    assert np.array_equal(shorter.mean, longest.mean[:, :steps])


def test_up_to_the_trained_horizon_what_is_issued_is_what_was_scored(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    windows = cut(panel, tiny_config, panel.steps - tiny_config.horizon, panel.steps)
    scored = backtest(model, windows, own(model))
    earlier = Panel(
        panel.series,
        panel.start,
        panel.step,
        panel.targets[:, : -tiny_config.horizon],
        panel.past[:, : -tiny_config.horizon],
        panel.observed[:, : -tiny_config.horizon],
        {},
    )
    assert scored.series == ("east", "west")
    assert np.allclose(extend(model, earlier, tiny_config, tiny_config.horizon).quantiles, scored.quantiles, atol=1e-5)


def test_beyond_the_trained_horizon_the_median_is_fed_back(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    first = extend(model, panel, tiny_config, 24)
    wind = panel.past[:, -tiny_config.season :]  # repeats its last season
    longer = Panel(
        panel.series,
        panel.start,
        panel.step,
        np.concatenate([panel.targets, first.quantiles[..., model.median]], axis=1),
        np.concatenate([panel.past, wind], axis=1),
        np.concatenate([panel.observed, np.ones((2, 24, 2), bool)], axis=1),
        {},
    )
    assert np.array_equal(
        extend(model, panel, tiny_config, 48).quantiles[:, 24:], extend(model, longer, tiny_config, 24).quantiles
    )


@pytest.mark.parametrize("trained", [24, 30])  # whole days, and not
def test_the_band_beyond_the_trained_horizon_depends_on_observations_only(
    tmp_path: Path,
    config_with: Callable[..., DatasetConfig],
    panel: Panel,
    store_model: Callable[..., Manifest],
    trained: int,
) -> None:
    config = config_with(horizons=[trained])
    band = Calibration(group=99, quantile_offsets=(((-1.0, 0.0, 1.0),) * 2,), mean_offsets=((0.0,) * 2,), period=24)
    store_model(tmp_path / "models" / "b", config, calibration=band, lower=(None, None))
    quantiles = extend(load(tmp_path / "models" / "b"), panel, config, 96).quantiles
    width = quantiles[..., 2] - quantiles[..., 0]
    assert np.allclose(width[:, 24:], width[:, :-24])
    assert np.ptp(width, axis=1).min() > 0.1


def test_the_error_for_a_missing_target_names_series_channel_and_time(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    panel.targets[1, -10:-7, 1] = np.nan
    with pytest.raises(DataError, match="west has 3 missing values of price") as caught:
        extend(model, panel, tiny_config, 24)
    assert caught.value.code == "forecast.history_gap"
    assert str(panel.time(panel.steps - 10)) in str(caught.value)


def test_a_gap_before_the_look_back_does_not_matter(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    expected = extend(model, panel, tiny_config, 24)
    panel.targets[:, : -tiny_config.lookback] = np.nan
    panel.past[:, : -tiny_config.lookback] = np.nan
    assert np.array_equal(extend(model, panel, tiny_config, 24).quantiles, expected.quantiles)


def test_covariates_that_come_later_than_targets_are_carried_forward(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    late = panel.past.copy()
    panel.past[:, -5:] = np.nan
    late[:, -5:] = late[:, -6:-5]
    carried = Panel(panel.series, panel.start, panel.step, panel.targets, late, panel.observed, {})
    assert np.array_equal(
        extend(model, panel, tiny_config, 24).quantiles, extend(model, carried, tiny_config, 24).quantiles
    )


def test_a_history_shorter_than_the_look_back_is_an_error(
    model: ServedModel, tiny_config: DatasetConfig, panel: Panel
) -> None:
    short = Panel(
        panel.series, panel.start, panel.step, panel.targets[:, :47], panel.past[:, :47], panel.observed[:, :47], {}
    )
    with pytest.raises(DataError) as caught:
        extend(model, short, tiny_config, 24)
    assert caught.value.code == "forecast.short_history"
