import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.significance import LEAST, paired_test


def losses(seed: int, count: int, overlap: int = 1) -> np.ndarray:
    """White noise, averaged over as many origins as overlap."""
    noise = np.random.default_rng(seed).normal(size=count + overlap - 1)
    return np.convolve(noise, np.full(overlap, 1 / overlap), "valid")


@settings(deadline=None)  # a first null distribution is simulated in a quarter of a second
@given(st.integers(0, 1000), st.sampled_from([LEAST, 60]), st.sampled_from([1, 4]))
def test_the_order_of_the_models_mirrors_the_result(seed: int, count: int, overlap: int) -> None:
    first, second = losses(seed, count), losses(seed + 5000, count)
    there, back = paired_test(first, second, overlap), paired_test(second, first, overlap)
    assert there is not None
    assert back is not None
    assert there.mean == -back.mean
    assert there.p_lower == pytest.approx(back.p_higher)
    assert 0 < there.p_lower <= 1


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 1000), st.floats(-100, 100))
def test_unit_and_level_of_the_losses_do_not_matter(seed: int, unit: float, level: float) -> None:
    first, second = losses(seed, 40), losses(seed + 5000, 40)
    one, other = paired_test(first, second, 3), paired_test(first * unit + level, second * unit + level, 3)
    assert one is not None
    assert other is not None
    assert other.statistic == pytest.approx(one.statistic, rel=1e-4)
    assert other.p_lower == pytest.approx(one.p_lower, abs=0.01)


def test_equal_models_are_distinguished_no_more_often_than_the_nominal_level() -> None:
    tests = [paired_test(losses(seed, 200), losses(seed + 9000, 200), 1) for seed in range(400)]
    share = np.mean([test.p_lower <= 0.1 for test in tests if test is not None])
    assert share == pytest.approx(0.1, abs=0.045)  # three standard errors of 400 draws


def test_overlapping_forecasts_are_not_taken_for_independent_ones() -> None:
    # The losses of origins an hour apart differ little: a lead in them is worth much less than it looks.
    naive, honest = [], []
    for seed in range(200):
        first, second = losses(seed, 240, overlap=24), losses(seed + 9000, 240, overlap=24)
        for overlap, found in ((1, naive), (24, honest)):
            test = paired_test(first, second, overlap)
            assert test is not None
            found.append(test.p_lower <= 0.1)
    assert np.mean(naive) > 0.3
    assert np.mean(honest) < 0.22


def test_a_clear_gain_is_found() -> None:
    test = paired_test(losses(0, 300, overlap=6), losses(1, 300, overlap=6) + 1.0, overlap=6)
    assert test is not None
    assert test.mean < 0
    assert test.p_lower < 0.001
    assert test.p_higher > 0.99


@pytest.mark.parametrize(("gap", "lower"), [(0.0, 1.0), (-0.1, 0.0), (0.1, 1.0)])
def test_a_difference_that_never_varies_needs_no_variance(gap: float, lower: float) -> None:
    test = paired_test(np.full(20, 1.0 + gap), np.ones(20), overlap=2)
    assert test is not None
    assert np.isfinite(test.p_lower)
    assert test.p_lower == pytest.approx(lower, abs=1e-3 if gap else 0.51)


@pytest.mark.parametrize(("count", "overlap"), [(0, 1), (LEAST - 1, 1), (47, 24), (100, 51)])
def test_too_few_origins_are_not_tested(count: int, overlap: int) -> None:
    assert paired_test(np.zeros(count), np.ones(count), overlap) is None
