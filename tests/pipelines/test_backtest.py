from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.errors import TrainingError
from forecast.evaluation import score
from forecast.jobs import DatasetJob
from forecast.panel import Panel
from forecast.runtime import Calibration, ServedModel, load
from pipelines.backtest import Slices, backtest, calibrate, cut
from pipelines.clean import clean
from pipelines.features import known_future

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


# --- slices -----------------------------------------------------------------------------------------------------------


def test_the_splits_are_measured_back_from_the_end_in_time_order(job_with: Callable[..., DatasetJob]) -> None:
    job = job_with(splits={"validation": "2d", "calibration": "3d", "holdout": "4d"})
    slices = Slices.of(make_panel(400), job)
    assert (slices.fit, slices.validation, slices.calibration, slices.holdout) == (400 - 216, 400 - 168, 400 - 96, 400)


@pytest.mark.parametrize("steps", [0, 1, 9 * 24, 9 * 24 + LOOKBACK + HORIZON - 1])
def test_a_history_that_leaves_no_window_to_fit_on_is_told(tiny_job: DatasetJob, steps: int) -> None:
    with pytest.raises(TrainingError, match="one window takes 72") as caught:
        Slices.of(make_panel(steps), tiny_job)
    assert caught.value.code == "training.too_short"


def test_a_history_that_leaves_exactly_one_window_to_fit_on_is_enough(tiny_job: DatasetJob) -> None:
    assert Slices.of(make_panel(9 * 24 + LOOKBACK + HORIZON), tiny_job).fit == LOOKBACK + HORIZON


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_lie_where_they_must(tiny_job: DatasetJob) -> None:
    panel = make_panel()
    windows = cut(panel, tiny_job, 200, 300)
    assert len(windows.origins) == 2 * (100 - HORIZON + 1)
    assert min(windows.origins) == panel.time(200)
    assert max(windows.origins) == panel.time(300 - HORIZON)
    calendar = known_future(panel.start, panel.step, panel.steps, tiny_job)
    for place, (origin, name) in enumerate(zip(windows.origins, windows.series, strict=True)):
        row, number = panel.index(origin), panel.series.index(name)
        assert np.array_equal(windows.targets[place], panel.targets[number, row - LOOKBACK : row])
        assert np.array_equal(windows.past[place], panel.past[number, row - LOOKBACK : row])
        assert np.array_equal(windows.future[place], calendar[row - LOOKBACK : row + HORIZON])
        assert np.array_equal(windows.actual[place], panel.targets[number, row : row + HORIZON])


@pytest.mark.parametrize(
    ("first", "last", "origins"), [(0, 100, 29), (LOOKBACK, LOOKBACK + HORIZON, 1), (376, 400, 1), (300, 400, 77)]
)
def test_every_origin_whose_targets_fit_is_there_once(
    tiny_job: DatasetJob, first: int, last: int, origins: int
) -> None:
    assert len(cut(make_panel(), tiny_job, first, last).origins) == 2 * origins


def test_a_stride_takes_every_so_manieth_origin(tiny_job: DatasetJob) -> None:
    windows = cut(make_panel(), tiny_job, 200, 300, stride=7)
    assert [(origin - START) // HOUR for origin in windows.origins[: len(windows.origins) // 2]] == list(
        range(200, 277, 7)
    )


@pytest.mark.parametrize(("first", "last"), [(100, 123), (0, 71), (400, 400)])
def test_where_no_window_fits_that_is_told(tiny_job: DatasetJob, first: int, last: int) -> None:
    with pytest.raises(TrainingError) as caught:
        cut(make_panel(), tiny_job, first, last)
    assert caught.value.code == "backtest.no_window"


@pytest.mark.parametrize("channel", ["targets", "past"])
def test_no_window_looks_back_across_a_gap_and_other_series_keep_theirs(tiny_job: DatasetJob, channel: str) -> None:
    panel = make_panel()
    getattr(panel, channel)[0, 250, 0] = NAN
    windows = cut(panel, tiny_job, 200, 400)
    east = [panel.index(origin) for origin, name in zip(windows.origins, windows.series, strict=True) if name == "east"]
    assert east == [row for row in range(200, 377) if not row - LOOKBACK <= 250 < row]
    assert windows.series.count("west") == 177


def test_what_was_filled_is_seen_by_the_model_but_not_scored(tiny_job: DatasetJob) -> None:
    panel = make_panel()
    panel.observed[0, 230, 1] = False
    windows = cut(panel, tiny_job, 200, 300)
    row = next(i for i, origin in enumerate(windows.origins) if panel.index(origin) == 225)
    assert np.isnan(windows.actual[row, 5, 1])
    assert np.isfinite(windows.actual[row]).sum() == 2 * HORIZON - 1
    row = next(i for i, origin in enumerate(windows.origins) if panel.index(origin) == 240)
    assert windows.targets[row, LOOKBACK - 10, 1] == panel.targets[0, 230, 1]


def test_the_digest_tells_windows_apart_by_origin_series_and_truth(tiny_job: DatasetJob) -> None:
    windows = cut(make_panel(), tiny_job, 200, 300)
    assert cut(make_panel(), tiny_job, 200, 300).digest == windows.digest
    changed = make_panel()
    changed.targets[1, 299, 1] += 1e-9
    others = [
        cut(make_panel(), tiny_job, 201, 300),
        cut(changed, tiny_job, 200, 300),
        replace(windows, series=tuple(reversed(windows.series))),
    ]
    assert windows.digest not in {other.digest for other in others}


# --- no look-ahead ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(200, 376), later=st.integers(0, 100), series=st.integers(0, 1), seed=st.integers(0, 99))
def test_no_value_at_or_after_an_origin_can_reach_its_forecast(
    model: ServedModel, tiny_job: DatasetJob, row: int, later: int, series: int, seed: int
) -> None:
    panel = make_panel()
    random = np.random.default_rng(seed)
    place = min(row + later, panel.steps - 1)
    panel.targets[series, place:] += random.normal(0, 1000)
    panel.past[series, place:] += random.normal(0, 1000)
    ours = {key: value for key, value in forecasts(model, panel, tiny_job).items() if key[0] <= panel.time(place)}
    untouched = forecasts(model, make_panel(), tiny_job)
    assert all(np.array_equal(value, untouched[key]) for key, value in ours.items())
    assert any(key[0] == panel.time(row) for key in ours)


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


# --- scores and calibration -------------------------------------------------------------------------------------------


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
