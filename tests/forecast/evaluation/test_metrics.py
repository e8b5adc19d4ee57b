import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast.evaluation.metrics import coverage, mean_absolute_error, pinball, skill

NAN = float("nan")
finite = st.floats(-1e6, 1e6, allow_subnormal=False)  # half of the smallest number is zero
pairs = hnp.arrays(float, st.tuples(st.just(2), st.integers(1, 20)), elements=finite)
levels = st.floats(0.01, 0.99)


@given(pairs)
def test_the_loss_at_the_median_is_the_absolute_error(pair: np.ndarray) -> None:
    actual, median = pair
    assert np.allclose(pinball(actual, median[:, None], [0.5]), np.abs(actual - median))


@given(pairs, levels)
def test_the_loss_is_never_negative_and_zero_only_when_right(pair: np.ndarray, level: float) -> None:
    actual, quantile = pair
    loss = pinball(actual, quantile[:, None], [level])
    assert (loss >= 0).all()
    assert np.array_equal(loss == 0, np.abs(actual - quantile) == 0)


@given(levels, st.integers(0, 1000))
def test_the_loss_of_a_sample_is_least_at_its_own_quantile(level: float, seed: int) -> None:
    sample = np.random.default_rng(seed).normal(size=301)
    best = np.quantile(sample, level, method="inverted_cdf")
    at_best = pinball(sample, np.full((301, 1), best), [level]).mean()
    for other in (best - 0.3, best + 0.3):
        assert at_best <= pinball(sample, np.full((301, 1), other), [level]).mean() + 1e-12


def test_a_high_level_punishes_being_too_low_more() -> None:
    too_low, too_high = pinball(np.array([0.0, 0.0]), np.array([[-1.0], [1.0]]), [0.9])
    assert too_low == pytest.approx(1.8)
    assert too_high == pytest.approx(0.2)


@given(pairs)
def test_what_was_not_observed_counts_nowhere(pair: np.ndarray) -> None:
    actual, predicted = pair
    longer = np.append(actual, NAN), np.append(predicted, 1e6)
    assert mean_absolute_error(*longer) == pytest.approx(mean_absolute_error(actual, predicted))
    assert coverage(longer[0], longer[1] - 1, longer[1] + 1) == coverage(actual, predicted - 1, predicted + 1)
    assert np.isnan(pinball(*longer[:1], longer[1][:, None], [0.5])[-1])


def test_the_mean_errors_are_what_they_are_called() -> None:
    actual, predicted = np.array([1.0, 2.0, NAN]), np.array([2.0, 5.0, 9.0])
    assert mean_absolute_error(actual, predicted) == 2.0


def test_the_edges_of_a_band_belong_to_it() -> None:
    assert coverage(np.array([0.0, 1.0, 2.0, 3.0]), np.zeros(4), np.full(4, 2.0)) == 0.75


def test_without_observations_every_score_is_nan_without_a_warning() -> None:
    nothing = np.full(3, NAN)
    assert np.isnan(coverage(nothing, nothing, nothing))
    assert np.isnan(mean_absolute_error(nothing, np.zeros(3)))


@pytest.mark.parametrize(
    ("loss", "reference", "expected"), [(75, 100, 0.25), (0, 100, 1), (100, 100, 0), (150, 100, -0.5), (1, 0, 0)]
)
def test_skill_is_the_share_of_the_reference_that_is_saved(loss: float, reference: float, expected: float) -> None:
    assert skill(loss, reference) == expected
