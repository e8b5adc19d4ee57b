from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.metrics import observed_mean, pinball
from forecast.panel import Panel
from forecast.runtime.calibration import Calibration
from forecast.runtime.model import ServedModel, load
from pipelines.preparation.windows import Windows, cut
from pipelines.training.calibrate import _Residuals, calibrate

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAN = float("nan")
LEVELS = (0.1, 0.5, 0.9)
GROUP = 3  # lead times in an eighth of the horizon
law = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_panel(steps: int = 400, seed: int = 0) -> Panel:
    random = np.random.default_rng(seed)
    targets = random.normal(40, 10, (2, steps, 2))
    past = random.normal(5, 2, (2, steps, 1))
    return Panel(("east", "west"), START, HOUR, targets, past, np.ones(targets.shape, bool), {})


@pytest.fixture
def model(tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., object]) -> ServedModel:
    """A model whose forecasts depend on every one of its inputs, and are wrong."""
    store_model(tmp_path / "models" / "m", tiny_config, weight=0.7)
    return load(tmp_path / "models" / "m")


def having(model: ServedModel, **changes: object) -> ServedModel:
    return ServedModel(model.manifest.model_copy(update={"lower": (None, None), **changes}), model._session)


def forecast(model: ServedModel, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    made = model.predict(windows.targets, windows.past, windows.future, windows.series)
    return made.mean, made.quantiles


def only(windows: Windows, kept: slice) -> Windows:
    return replace(windows, **{name: getattr(windows, name)[kept] for name in windows.__slots__})


def coverages(actual: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    inside = (actual >= quantiles[..., 0]) & (actual <= quantiles[..., -1])
    return inside.reshape(len(actual), -1, GROUP, actual.shape[2]).mean(axis=(0, 2))  # [groups, C]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_band_covers_what_it_promises_on_the_rows_it_was_calibrated_on(
    model: ServedModel, tiny_config: DatasetConfig, seed: int
) -> None:
    panel = make_panel(600, seed)
    panel.targets[..., 1] = np.exp(panel.targets[..., 1] / 10)  # skewed
    windows = cut(panel, tiny_config, 200, 500)
    assert coverages(windows.actual, forecast(having(model), windows)[1]).max() < 0.1
    mean, quantiles = forecast(having(model, calibration=calibrate(model, windows, DAY)), windows)
    assert coverages(windows.actual, quantiles) == pytest.approx(0.8, abs=0.02)
    assert (windows.actual <= quantiles[..., 1]).mean() == pytest.approx(0.5, abs=0.03)
    assert (windows.actual - mean)[..., 0].mean() == pytest.approx(0, abs=0.5)  # deviations are 10


@pytest.mark.parametrize(("kind", "seed"), [("normal", 0), ("normal", 1), ("skewed", 0), ("heavy tails", 0)])
def test_on_exchangeable_windows_it_covers_what_it_promises_on_rows_used_for_nothing_else(
    model: ServedModel, tiny_config: DatasetConfig, kind: str, seed: int
) -> None:
    panel = make_panel(3600, seed)
    random = np.random.default_rng(seed + 100)
    noise = {
        "normal": random.normal(size=panel.targets.shape),
        "skewed": random.gamma(1.0, 1.0, panel.targets.shape),
        "heavy tails": random.standard_t(3, panel.targets.shape),
    }[kind]
    panel.targets[:] = 40 + 10 * noise
    found = calibrate(model, cut(panel, tiny_config, 100, 1200), DAY)
    fresh = cut(panel, tiny_config, 1200, 3600)
    before, after = forecast(having(model), fresh)[1], forecast(having(model, calibration=found), fresh)[1]
    assert coverages(fresh.actual, after) == pytest.approx(0.8, abs=0.04)
    assert pinball(fresh.actual, after, LEVELS).mean() < pinball(fresh.actual, before, LEVELS).mean()


@law
@given(
    seed=st.integers(0, 2**32 - 1), bias=st.floats(-30, 30), spread=st.floats(0.1, 50), skew=st.booleans(),
    count=st.integers(1, 60), lacking=st.sampled_from([0.0, 0.3, 0.98]),
)  # fmt: skip
def test_the_loss_on_the_calibration_windows_never_rises(
    model: ServedModel, tiny_config: DatasetConfig, seed: int, bias: float, spread: float, skew: bool, count: int,
    lacking: float,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    windows = only(cut(make_panel(200, seed), tiny_config, 48, 200), slice(0, count))
    noise = random.normal(size=windows.actual.shape)
    actual = forecast(having(model), windows)[0] + bias + spread * (np.exp(noise) if skew else noise)
    windows = replace(windows, actual=np.where(random.random(actual.shape) < lacking, NAN, actual))
    found = calibrate(model, windows, DAY)
    losses = [
        pinball(windows.actual, forecast(one, windows)[1], LEVELS) / 10
        for one in (having(model), having(model, calibration=found))
    ]
    for begin in range(0, tiny_config.horizon, GROUP):
        for channel in range(2):
            before, after = (observed_mean(loss[:, begin : begin + GROUP, channel]) for loss in losses)
            assert np.isnan(before) or after <= before * (1 + 1e-6) + 1e-9


@law
@given(factor=st.floats(0.01, 1000), shift=st.floats(-1e4, 1e4), seed=st.integers(0, 1000))
def test_other_units_change_nothing(
    model: ServedModel, tiny_config: DatasetConfig, factor: float, shift: float, seed: int
) -> None:
    windows = cut(make_panel(150, seed), tiny_config, 48, 150)
    other = replace(windows, targets=windows.targets * factor + shift, actual=windows.actual * factor + shift)
    scaler = model.manifest.scaler
    moments = {
        name: (tuple(mean * factor + shift for mean in means), tuple(deviation * factor for deviation in deviations))
        for name, (means, deviations) in scaler.targets.items()
    }
    elsewhere = having(model, scaler=scaler.model_copy(update={"targets": moments}))
    ours, theirs = calibrate(model, windows, DAY), calibrate(elsewhere, other, DAY)
    assert np.allclose(ours.quantile_offsets, theirs.quantile_offsets, atol=1e-2)
    assert np.allclose(ours.mean_offsets, theirs.mean_offsets, atol=1e-2)


@law
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), outer=st.floats(0.01, 0.2), inner=st.floats(0.21, 0.49))
def test_a_higher_level_never_has_a_lower_offset(
    model: ServedModel, tiny_config: DatasetConfig, seed: int, count: int, outer: float, inner: float
) -> None:
    several = having(model, quantiles=(outer, inner, 0.5, 1 - inner, 1 - outer))
    windows = only(cut(make_panel(150, seed), tiny_config, 48, 150), slice(0, count))
    found = calibrate(several, windows, DAY)
    assert (np.diff(found.quantile_offsets, axis=-1) >= -1e-9).all()


def test_a_shift_that_did_not_last_moves_no_band_but_widens_it(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(200), tiny_config, 48, 200)
    place = np.unique([origin.timestamp() for origin in windows.origins], return_inverse=True)[1]
    shift = np.asarray([8.0, -8.0, 8.0, -4.0])[place * 4 // (place.max() + 1)]  # too low on the whole, but not for long
    random = np.random.default_rng(0)
    actual = forecast(having(model), windows)[0] + shift[:, None, None] + random.normal(0, 1, windows.actual.shape)
    found = calibrate(model, replace(windows, actual=actual), DAY)
    low, middle, high = np.moveaxis(np.asarray(found.quantile_offsets), -1, 0)
    assert (low == -high).all()
    assert (middle == 0).all()
    assert (np.asarray(found.mean_offsets) == 0).all()
    assert (high > 0).all()


def test_a_shift_that_lasts_moves_the_band(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(200), tiny_config, 48, 200)
    random = np.random.default_rng(0)
    actual = forecast(having(model), windows)[0] + 8 + random.normal(0, 1, windows.actual.shape)
    found = calibrate(model, replace(windows, actual=actual), DAY)
    assert (np.asarray(found.quantile_offsets) > 0).all()
    made = forecast(having(model, calibration=found), windows)
    assert (actual - made[0]).mean() == pytest.approx(0, abs=0.5)
    assert (actual <= made[1][..., 1]).mean() == pytest.approx(0.5, abs=0.03)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    skew=st.floats(0, 2),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_quantiles_that_were_right_are_not_made_worse_on_the_calibration_rows(
    seed: int, count: int, skew: float, share: float
) -> None:
    random = np.random.default_rng(seed)
    actual = np.exp(skew * random.normal(size=count))
    right = np.exp(skew * np.asarray([-1.2816, 0.0, 1.2816]))
    scale = random.uniform(0.1, 3, count)
    residuals = _Residuals((actual[:, None] - right) / scale[:, None], scale, np.zeros(count, np.intp), LEVELS)
    offsets, mean = residuals.corrections(share)
    assert residuals.loss(np.asarray(offsets)) <= residuals.loss(np.zeros(3))
    assert np.isfinite(mean)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_windows_give_finite_offsets(model: ServedModel, tiny_config: DatasetConfig, count: int) -> None:
    found = calibrate(model, only(cut(make_panel(), tiny_config, 200, 300), slice(0, count)), DAY)
    assert np.isfinite(found.quantile_offsets).all()
    assert np.isfinite(found.mean_offsets).all()
    assert (np.diff(found.quantile_offsets, axis=-1) >= 0).all()


def test_a_constant_channel_gives_finite_offsets_and_a_band_of_no_width(
    model: ServedModel, tiny_config: DatasetConfig
) -> None:
    panel = make_panel()
    panel.targets[..., 0] = 40.0
    windows = cut(panel, tiny_config, 200, 400)
    # A network that knows it: the fixture's adds what wind and calendar say.
    known = replace(windows, actual=np.where(np.asarray([True, False]), forecast(having(model), windows)[0], 1.0))
    found = calibrate(model, known, DAY)
    assert np.isfinite(found.quantile_offsets).all()
    assert np.asarray(found.quantile_offsets)[:, 0] == pytest.approx(0, abs=1e-4)


def test_unobserved_values_have_no_part_in_the_calibration(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 200, 300)
    lied = windows.actual.copy()
    lied[::2] = NAN
    ours = calibrate(model, replace(windows, actual=lied), DAY)
    theirs = calibrate(model, only(windows, slice(1, None, 2)), DAY)
    assert np.allclose(ours.quantile_offsets, theirs.quantile_offsets, atol=1e-5)
    assert not np.allclose(ours.quantile_offsets, calibrate(model, windows, DAY).quantile_offsets, atol=1e-5)


def test_a_channel_that_was_never_observed_is_left_as_it_is(model: ServedModel, tiny_config: DatasetConfig) -> None:
    windows = cut(make_panel(), tiny_config, 200, 300)
    blind = windows.actual.copy()
    blind[..., 0] = NAN
    found = calibrate(model, replace(windows, actual=blind), DAY)
    offsets = np.asarray(found.quantile_offsets)
    assert (offsets[:, 0] == 0).all()
    assert (np.asarray(found.mean_offsets)[:, 0] == 0).all()
    assert (offsets[:, 1] != 0).any()


@pytest.mark.parametrize(
    ("horizon", "step", "groups"), [(24, "1h", 8), (336, "1h", 14), (7, "1h", 7), (1, "1h", 1), (30, "1d", 30)]
)
def test_lead_times_are_grouped_by_day_or_into_eight(
    tmp_path: Path,
    config_with: Callable[..., DatasetConfig],
    store_model: Callable[..., object],
    horizon: int,
    step: str,
    groups: int,
) -> None:
    config = config_with(
        horizons=[horizon], frequency=step, splits={"validation": "60d", "calibration": "60d", "holdout": "60d"}
    )
    store_model(tmp_path / "models" / "g", config)
    panel = replace(make_panel(500), step=config.step)
    found: Calibration = calibrate(load(tmp_path / "models" / "g"), cut(panel, config, 100, 500), DAY)
    assert len(found.quantile_offsets) == len(found.mean_offsets) == groups
    assert found.period == DAY // config.step
