import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast.runtime.calibration import Calibration, scales

DAYS, DAY = 5, 24
EVEN = np.ones((2, 7, 3))
moderate = st.floats(-100, 100)
lookbacks = hnp.arrays(float, (1, DAYS * DAY, 1), elements=moderate)


def test_without_calibration_the_median_is_the_mean_and_nothing_changes() -> None:
    quantiles = np.sort(np.random.default_rng(0).normal(size=(2, 7, 3, 5)), axis=-1)
    mean, same = Calibration.none(3, 5, 7).apply(quantiles, 2, EVEN)
    assert np.array_equal(same, quantiles)
    assert np.array_equal(mean, quantiles[..., 2])


@given(
    raw=hnp.arrays(float, (2, 10, 1, 3), elements=moderate),
    offsets=hnp.arrays(float, (3, 1, 3), elements=moderate),
    scale=hnp.arrays(float, (2, 10, 1), elements=st.floats(0.01, 100)),
)
def test_quantiles_never_cross_whatever_the_network_and_the_offsets_say(
    raw: np.ndarray, offsets: np.ndarray, scale: np.ndarray
) -> None:
    calibration = Calibration(group=4, quantile_offsets=offsets.tolist(), mean_offsets=((0.0,),) * 3)
    _, quantiles = calibration.apply(raw, 1, scale)
    assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_each_group_of_lead_times_has_its_own_offsets_and_the_last_reaches_to_the_end() -> None:
    calibration = Calibration(group=2, quantile_offsets=(((1.0,),), ((10.0,),)), mean_offsets=((2.0,), (20.0,)))
    mean, quantiles = calibration.apply(np.zeros((1, 6, 1, 1)), 0, np.ones((1, 6, 1)))
    assert quantiles[0, :, 0, 0].tolist() == [1, 1, 10, 10, 10, 10]
    assert mean[0, :, 0].tolist() == [2, 2, 20, 20, 20, 20]


def test_offsets_are_in_units_of_the_scale() -> None:
    calibration = Calibration(group=2, quantile_offsets=(((-1.0, 0.0, 3.0),),), mean_offsets=((0.5,),))
    mean, quantiles = calibration.apply(np.full((1, 2, 1, 3), 7.0), 1, np.asarray([[[1.0], [10.0]]]))
    assert quantiles[0, :, 0].tolist() == [[6, 7, 10], [-3, 7, 37]]
    assert mean[0, :, 0].tolist() == [7.5, 12]


def test_a_calibration_that_was_stored_before_scales_were_known_adds_its_offsets_as_they_are() -> None:
    stored = json.dumps({"group": 6, "quantile_offsets": [[[-2.0, 0.0, 3.0]]], "mean_offsets": [[0.5]]})
    restless = np.random.default_rng(0).normal(0, 100, (1, 96, 1))
    assert (scales(restless, 6, Calibration.model_validate_json(stored).period) == 1).all()


# --- scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "period"), [(47, 24), (24, 24), (96, 0), (1, 1)])
def test_a_look_back_too_short_to_tell_a_scale_tells_none(steps: int, period: int) -> None:
    assert (scales(np.random.default_rng(0).normal(size=(2, steps, 3)), 7, period) == np.ones((2, 7, 3))).all()


@given(lookback=lookbacks, factor=st.floats(1, 100), shift=st.integers(-100, 100))
def test_a_band_is_finite_and_positive_grows_with_what_moves_and_knows_no_level(
    lookback: np.ndarray, factor: float, shift: int
) -> None:
    here = scales(lookback, 60, DAY)
    assert here.shape == (1, 60, 1)
    assert np.isfinite(here).all()
    assert (here > 0).all()
    assert (scales(factor * lookback, 60, DAY) >= here * (1 - 1e-9)).all()
    assert (scales(factor * lookback, 60, DAY) <= here * factor**0.5 * (1 + 1e-9)).all()
    assert np.allclose(scales(lookback + shift, 60, DAY), here, atol=1e-6)


def test_a_daily_pattern_that_repeats_is_calm() -> None:
    pattern = np.tile(np.random.default_rng(0).normal(size=(1, DAY, 1)), (1, DAYS, 1))
    assert np.array_equal(scales(pattern, 30, DAY), scales(np.zeros_like(pattern), 30, DAY))


@pytest.mark.parametrize("steps", [DAYS * DAY, DAYS * DAY + 7])  # the look-back need not be whole days
def test_bands_are_widest_in_the_hours_that_were_restless(steps: int) -> None:
    hour = (np.arange(steps) - steps) % DAY  # 0 for the hour of the first lead time
    lookback = np.random.default_rng(0).normal(size=steps) * np.where((hour >= 6) & (hour < 12), 5.0, 0.1)
    found = scales(lookback[None, :, None], 48, DAY)[0, :, 0]
    restless = (np.arange(48) % DAY >= 6) & (np.arange(48) % DAY < 12)
    assert found[restless].min() > found[~restless].max()
    assert found[15] < found[9] / 1.5


def test_each_window_and_channel_has_a_scale_of_its_own() -> None:
    random = np.random.default_rng(0)
    lookback = random.normal(size=(2, 96, 2)) * np.asarray([[1.0, 4.0], [9.0, 16.0]])[:, None]
    together = scales(lookback, 24, DAY)
    for window in range(2):
        for channel in range(2):
            alone = scales(lookback[window : window + 1, :, channel : channel + 1], 24, DAY)
            assert np.allclose(together[window, :, channel], alone[0, :, 0])
    assert (np.diff(together.mean(axis=1).ravel()) > 0).all()
