from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.scores import Yardstick
from forecast.panel import Panel
from forecast.runtime.model import ServedModel, load
from forecast.runtime.smoke_test import SmokeTest
from pipelines.preparation.clean import clean
from pipelines.preparation.windows import cut
from pipelines.training.backtest import backtest, evidence_of

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAN = float("nan")
LOOKBACK, HORIZON = 48, 24


def make_panel(steps: int = 400, seed: int = 0) -> Panel:
    random = np.random.default_rng(seed)
    targets = random.normal(40, 10, (2, steps, 2))
    return Panel(
        ("east", "west"), START, HOUR, targets, random.normal(5, 2, (2, steps, 1)), np.ones(targets.shape, bool), {}
    )


def own(model: ServedModel) -> Yardstick:
    """Return a yardstick with the model's own deviations."""
    deviations = {name: moments[1] for name, moments in model.manifest.scaler.targets.items()}
    return Yardstick(deviations, deviations)


@pytest.fixture
def model(tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., object]) -> ServedModel:
    """A model whose forecasts depend on every one of its inputs."""
    store_model(tmp_path / "models" / "m", tiny_config, weight=0.7)
    return load(tmp_path / "models" / "m")


def forecasts(model: ServedModel, panel: Panel, config: DatasetConfig) -> dict[tuple[datetime, str], np.ndarray]:
    windows = cut(panel, config, 200, panel.steps)
    result = backtest(model, windows, own(model))
    return dict(zip(zip(result.origins, result.series, strict=True), result.quantiles, strict=True))


@pytest.mark.parametrize("channel", ["load", "wind"])
def test_no_value_at_or_after_an_origin_can_reach_its_forecast_through_a_filled_gap(
    model: ServedModel, tiny_config: DatasetConfig, tiny_rows: Callable[..., pl.DataFrame], channel: str
) -> None:
    origin = START + 300 * HOUR
    rows = tiny_rows().rename({"site": "series"}).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    in_gap = pl.col("time").is_between(origin - 5 * HOUR, origin - HOUR)
    rows = rows.with_columns(pl.when(~in_gap).then(channel).alias(channel))
    other = rows.with_columns(
        pl.when(pl.col("time") >= origin).then(pl.col(channel) + 1000).otherwise(channel).alias(channel)
    )
    ours, theirs = (forecasts(model, clean(frame, tiny_config), tiny_config) for frame in (rows, other))
    for name in ("east", "west"):
        assert np.array_equal(ours[origin, name], theirs[origin, name])


def test_a_backtest_is_the_models_own_forecast_of_each_window(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 100, 400)  # more than one batch
    result = backtest(model, windows, own(model))
    assert result.quantiles.shape == (len(windows.series), HORIZON, 2, 3)
    assert np.array_equal(result.actual, windows.actual)
    for place in (0, 255, 256, len(windows.series) - 1):
        part = slice(place, place + 1)
        alone = model.predict(windows.targets[part], windows.past[part], windows.future[part], windows.series[part])
        assert np.allclose(result.quantiles[part], alone.quantiles, atol=1e-4)
        assert np.allclose(result.mean[part], alone.mean, atol=1e-4)


def test_the_scores_of_a_model_are_those_of_its_backtest(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 200, 300)
    seen = SmokeTest(latency_ms=1, size_mb=1, not_finite_on=(), onnx_difference=0)
    result = backtest(model, windows, own(model))
    assert np.array_equal(result.deviations, np.full((len(result.series), 2), 10.0))
    evidence = evidence_of(model, windows, own(model), tiny_config, seen)
    assert evidence.origins_digest == windows.digest
    in_units = [scores.mae_in_units for scores in evidence.by_channel.values()]
    assert evidence.by_horizon[24].mae == pytest.approx(np.mean(in_units) / 10, rel=1e-6)
