from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecast.evaluation import score
from forecast.jobs import DatasetJob
from forecast.panel import Panel
from forecast.runtime import Calibration, ServedModel, load
from pipelines.backtest import backtest, calibrate
from pipelines.clean import clean
from pipelines.windows import cut

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


@pytest.fixture
def model(tmp_path: Path, tiny_job: DatasetJob, store_model: Callable[..., object]) -> ServedModel:
    """A model whose forecasts depend on every one of its inputs."""
    store_model(tmp_path / "models" / "m", tiny_job, weight=0.7)
    return load(tmp_path / "models" / "m")


def forecasts(model: ServedModel, panel: Panel, job: DatasetJob) -> dict[tuple[datetime, str], np.ndarray]:
    windows = cut(panel, job, 200, panel.steps)
    result = backtest(model, windows)
    return dict(zip(zip(result.origins, result.series, strict=True), result.quantiles, strict=True))


@pytest.mark.parametrize("channel", ["load", "wind"])
def test_no_value_at_or_after_an_origin_can_reach_its_forecast_through_a_filled_gap(
    model: ServedModel, tiny_job: DatasetJob, tiny_rows: Callable[..., pl.DataFrame], channel: str
) -> None:
    origin = START + 300 * HOUR
    rows = tiny_rows().rename({"site": "series"}).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    in_gap = pl.col("time").is_between(origin - 5 * HOUR, origin - HOUR)
    rows = rows.with_columns(pl.when(~in_gap).then(channel).alias(channel))
    other = rows.with_columns(
        pl.when(pl.col("time") >= origin).then(pl.col(channel) + 1000).otherwise(channel).alias(channel)
    )
    ours, theirs = (forecasts(model, clean(frame, tiny_job), tiny_job) for frame in (rows, other))
    for name in ("east", "west"):
        assert np.array_equal(ours[origin, name], theirs[origin, name])


def test_a_backtest_is_the_models_own_forecast_of_each_window(model: ServedModel, tiny_job: DatasetJob) -> None:
    windows = cut(make_panel(), tiny_job, 100, 400)  # more than one batch
    result = backtest(model, windows)
    assert result.quantiles.shape == (len(windows.series), HORIZON, 2, 3)
    assert np.array_equal(result.actual, windows.actual)
    for place in (0, 255, 256, len(windows.series) - 1):
        part = slice(place, place + 1)
        alone = model.predict(windows.targets[part], windows.past[part], windows.future[part], windows.series[part])
        assert np.allclose(result.quantiles[part], alone.quantiles, atol=1e-4)
        assert np.allclose(result.mean[part], alone.mean, atol=1e-4)


def test_scores_are_in_units_of_the_fitted_rows(model: ServedModel, tiny_job: DatasetJob) -> None:
    result = backtest(model, cut(make_panel(), tiny_job, 200, 300))
    assert np.array_equal(result.deviations, np.full((len(result.series), 2), 10.0))
    evidence = score("m", "v", "d", result, tiny_job.targets, tiny_job.horizons)
    assert evidence.mae[24] == pytest.approx(np.mean([value / 10 for value in evidence.channel_mae.values()]))


def calibrated(model: ServedModel, calibration: Calibration) -> ServedModel:
    return ServedModel(
        model.manifest.model_copy(update={"calibration": calibration, "lower": (None, None)}), model._session
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_band_covers_what_it_promises_on_the_rows_it_was_calibrated_on(
    model: ServedModel, tiny_job: DatasetJob, seed: int
) -> None:
    panel = make_panel(600, seed)
    panel.targets[..., 1] = np.exp(panel.targets[..., 1] / 10)  # skewed
    windows = cut(panel, tiny_job, 200, 500)
    before = score("m", "v", "d", backtest(model, windows), tiny_job.targets, (24,))
    result = backtest(calibrated(model, calibrate(model, windows, DAY)), windows)
    after = score("m", "v", "d", result, tiny_job.targets, (24,))
    assert before.coverage < 0.1
    assert after.coverage == pytest.approx(0.8, abs=0.01)
    assert after.pinball < before.pinball
    for group in range(0, HORIZON, 3):  # an offset for each eighth of the horizon
        for channel in range(2):
            part = (slice(None), slice(group, group + 3), channel)
            inside = (windows.actual[part] >= result.quantiles[(*part, 0)]) & (
                windows.actual[part] <= result.quantiles[(*part, 2)]
            )
            below = windows.actual[part] <= result.quantiles[(*part, 1)]
            assert inside.mean() == pytest.approx(0.8, abs=0.01)
            assert below.mean() == pytest.approx(0.5, abs=0.01)


def test_after_calibration_the_mean_is_right_on_average(model: ServedModel, tiny_job: DatasetJob) -> None:
    windows = cut(make_panel(), tiny_job, 200, 300)
    result = backtest(calibrated(model, calibrate(model, windows, DAY)), windows)
    assert (windows.actual - result.mean).mean() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("horizon", "step", "groups"), [(24, "1h", 8), (336, "1h", 14), (7, "1h", 7), (1, "1h", 1), (30, "1d", 30)]
)
def test_lead_times_are_grouped_by_day_or_into_eight(
    tmp_path: Path,
    job_with: Callable[..., DatasetJob],
    store_model: Callable[..., object],
    horizon: int,
    step: str,
    groups: int,
) -> None:
    job = job_with(
        horizons=[horizon], frequency=step, splits={"validation": "60d", "calibration": "60d", "holdout": "60d"}
    )
    store_model(tmp_path / "models" / "g", job)
    panel = replace(make_panel(500), step=job.step)
    calibration = calibrate(load(tmp_path / "models" / "g"), cut(panel, job, 100, 500), DAY)
    assert len(calibration.quantile_offsets) == len(calibration.mean_offsets) == groups


def test_unobserved_values_have_no_part_in_the_calibration(model: ServedModel, tiny_job: DatasetJob) -> None:
    panel = make_panel()
    windows = cut(panel, tiny_job, 200, 300)
    lied = windows.actual.copy()
    lied[::2] = NAN
    half = replace(windows, actual=lied)
    odd = slice(1, None, 2)
    kept = replace(
        windows,
        origins=windows.origins[odd],
        series=windows.series[odd],
        targets=windows.targets[odd],
        past=windows.past[odd],
        future=windows.future[odd],
        actual=windows.actual[odd],
    )
    ours, theirs = calibrate(model, half, DAY), calibrate(model, kept, DAY)
    assert np.allclose(ours.quantile_offsets, theirs.quantile_offsets, atol=1e-5)


def test_a_channel_that_was_never_observed_is_left_as_it_is(model: ServedModel, tiny_job: DatasetJob) -> None:
    windows = cut(make_panel(), tiny_job, 200, 300)
    blind = windows.actual.copy()
    blind[..., 0] = NAN
    offsets = np.asarray(calibrate(model, replace(windows, actual=blind), DAY).quantile_offsets)
    assert (offsets[:, 0] == 0).all()
    assert (offsets[:, 1] != 0).any()
