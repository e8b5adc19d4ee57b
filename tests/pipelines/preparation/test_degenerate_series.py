"""Series that no model would wish for: finite forecasts, or an error that says what is wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, TrainingError
from forecast.evaluation.scores import Yardstick
from forecast.lake.schemas import TIME
from forecast.panel import Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import ServedModel, load
from pipelines.forecasting.inputs import forecastable
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices
from pipelines.preparation.training_data import trainable
from pipelines.preparation.windows import cut
from pipelines.training.backtest import backtest

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEPS = 400
MakeRows = Callable[..., pl.DataFrame]
Train = Callable[[DatasetConfig, Panel, str, Path], ServedModel]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def rows(tiny_rows: MakeRows) -> pl.DataFrame:
    rows = tiny_rows(STEPS).rename({"site": "series"})
    return rows.with_columns(pl.col("time").dt.replace_time_zone("UTC").cast(TIME))


def changed(rows: pl.DataFrame, channel: str, value: float | None, series: str = "west") -> pl.DataFrame:
    mine = pl.col("series") == series
    return rows.with_columns(pl.when(mine).then(pl.lit(value, pl.Float64)).otherwise(channel).alias(channel))


def between(rows: pl.DataFrame, first: int, last: int, series: str = "west") -> pl.DataFrame:
    mine, hour = pl.col("series") == series, (pl.col("time") - START).dt.total_hours()
    return rows.filter(~mine | hour.is_between(first, last - 1))


@pytest.mark.parametrize("name", ["seasonal_naive", "linear"])
def test_constant_and_all_zero_series_are_forecast_as_what_they_are(
    tmp_path: Path, config_with: Callable[..., DatasetConfig], rows: pl.DataFrame, train_model: Train, name: str
) -> None:
    config = config_with(models=[name])
    constants = {"a": 0.0, "b": 7.25, "c": -1e9}
    west = rows.filter(series="west")
    constant = [west.with_columns(pl.lit(n).alias("series"), price=value, wind=value) for n, value in constants.items()]
    panel = clean(pl.concat([rows, *constant]), config)
    model = train_model(config, panel, name, tmp_path / "m")
    prediction = extend(model, panel, config, 2 * config.horizon)
    assert np.isfinite(prediction.mean).all()
    assert np.isfinite(prediction.quantiles).all()
    for number, value in enumerate(constants.values()):
        assert np.allclose(prediction.quantiles[number, :, 1, 1], value, rtol=1e-3, atol=1.0)
    yardstick = Yardstick.fit(panel, model.manifest.scaler, config.season, STEPS - 216)
    assert np.isfinite(backtest(model, cut(panel, config, STEPS - 72, STEPS), yardstick).quantiles).all()


@pytest.mark.parametrize("count", [1, 30])
def test_a_series_of_a_few_rows_is_left_out_and_others_go_on(
    tiny_config: DatasetConfig, rows: pl.DataFrame, count: int
) -> None:
    panel = clean(between(rows, 100, 100 + count), tiny_config)
    assert panel.series == ("east", "west")
    assert trainable(panel, Slices.of(panel, tiny_config).fit, tiny_config).series == ("east",)


def test_a_data_set_of_one_row_is_reported_as_too_short(tiny_config: DatasetConfig, rows: pl.DataFrame) -> None:
    panel = clean(rows.head(1), tiny_config)
    with pytest.raises(TrainingError) as caught:
        Slices.of(panel, tiny_config)
    assert caught.value.code == "training.too_short"


def test_a_series_that_begins_late_is_fitted_on_what_it_has(
    tmp_path: Path, config_with: Callable[..., DatasetConfig], rows: pl.DataFrame, train_model: Train
) -> None:
    config = config_with(models=["linear"])
    panel = clean(between(rows, 90, STEPS), config)
    fit = Slices.of(panel, config).fit
    assert trainable(panel, fit, config).series == ("east", "west")
    means = fit_scaler(panel, config, fit).means(["west"])[0]
    assert np.allclose(means, panel.targets[1, 90:fit].mean(axis=0))
    prediction = extend(train_model(config, panel, "linear", tmp_path / "m"), panel, config, config.horizon)
    assert np.isfinite(prediction.quantiles).all()


def test_a_series_that_ended_long_ago_teaches_but_has_no_forecast(
    tmp_path: Path, config_with: Callable[..., DatasetConfig], rows: pl.DataFrame, train_model: Train
) -> None:
    config = config_with(models=["linear"])
    panel = clean(between(rows, 0, 250), config)
    model = train_model(config, panel, "linear", tmp_path / "m")
    ready = forecastable(panel, model.manifest, config)
    assert ready.series == ("east",)
    assert np.isfinite(extend(model, ready, config, config.horizon).quantiles).all()
    with pytest.raises(DataError, match="west has 48 missing values of load") as caught:
        extend(model, panel, config, config.horizon)
    assert caught.value.code == "forecast.history_gap"


@pytest.mark.parametrize("channel", ["load", "wind"])
def test_a_channel_that_was_never_observed_leaves_its_series_out(
    tmp_path: Path,
    tiny_config: DatasetConfig,
    rows: pl.DataFrame,
    store_model: Callable[..., Manifest],
    channel: str,
) -> None:
    panel = clean(changed(rows, channel, None), tiny_config)
    assert trainable(panel, Slices.of(panel, tiny_config).fit, tiny_config).series == ("east",)
    store_model(tmp_path / "m", tiny_config)
    model = load(tmp_path / "m")
    assert forecastable(panel, model.manifest, tiny_config).series == ("east",)
    with pytest.raises(DataError, match=f"missing values of {channel}") as caught:
        extend(model, panel, tiny_config, tiny_config.horizon)
    assert caught.value.code == "forecast.history_gap"


@pytest.mark.parametrize("channel", ["load", "wind"])
def test_a_channel_that_no_series_has_is_reported(
    tmp_path: Path, tiny_config: DatasetConfig, rows: pl.DataFrame, train_model: Train, channel: str
) -> None:
    panel = clean(changed(changed(rows, channel, None), channel, None, "east"), tiny_config)
    with pytest.raises(TrainingError) as caught:
        cut(panel, tiny_config, STEPS - 72, STEPS)
    assert caught.value.code == "backtest.no_window"
    with pytest.raises(TrainingError) as caught:
        train_model(tiny_config, panel, "linear", tmp_path / "m")
    assert caught.value.code == "training.no_window"
    assert f"{channel} is never observed" in caught.value.fact


def test_rows_without_any_value_are_no_history(tiny_config: DatasetConfig, rows: pl.DataFrame) -> None:
    with pytest.raises(DataError) as caught:
        clean(rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in tiny_config.channels), tiny_config)
    assert caught.value.code == "history.empty"
