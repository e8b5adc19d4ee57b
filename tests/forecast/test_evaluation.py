from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecast.evaluation import Backtest, Evidence, score

NAN = float("nan")
LEVELS = (0.1, 0.5, 0.9)
CHANNELS = ("load", "price")


def backtest(
    actual: np.ndarray, median: np.ndarray, width: float = 1.0, deviations: tuple[float, ...] = (1.0, 1.0)
) -> Backtest:
    quantiles = np.stack([median - width, median, median + width], axis=-1)
    count = len(actual)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return Backtest(
        origins=tuple(start + timedelta(hours=i) for i in range(count)),
        series=("east",) * count,
        actual=actual,
        mean=median,
        quantiles=quantiles,
        levels=LEVELS,
        deviations=np.tile(deviations, (count, 1)),
    )


def scored(result: Backtest) -> Evidence:
    return score("linear", "v1", "digest", result, CHANNELS, (1, 4))


@pytest.fixture
def actual() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4, 2))  # [N, H, C]


def test_a_perfect_forecast_has_no_error_and_covers_everything(actual: np.ndarray) -> None:
    evidence = scored(backtest(actual, actual))
    assert evidence.mae == {1: 0.0, 4: 0.0}
    assert evidence.mse == {1: 0.0, 4: 0.0}
    assert evidence.coverage == 1.0
    assert evidence.promised_coverage == pytest.approx(0.8)
    assert evidence.windows == 5
    assert evidence.is_finite


def test_a_horizon_is_scored_on_the_steps_up_to_it(actual: np.ndarray) -> None:
    median = actual.copy()
    median[:, 1:] += 2.0
    evidence = scored(backtest(actual, median))
    assert evidence.mae == {1: 0.0, 4: pytest.approx(1.5)}
    assert evidence.mse == {1: 0.0, 4: pytest.approx(3.0)}
    assert evidence.pinball_by_lead[0] < evidence.pinball_by_lead[1] == pytest.approx(evidence.pinball_by_lead[3])


def test_channels_are_averaged_in_units_of_their_own_deviation(actual: np.ndarray) -> None:
    median = actual + np.array([10.0, 0.1])
    evidence = scored(backtest(actual, median, deviations=(10.0, 0.1)))
    assert evidence.mae[4] == pytest.approx(1.0)
    assert evidence.channel_mae == {"load": pytest.approx(10.0), "price": pytest.approx(0.1)}


def test_the_scaled_scores_do_not_depend_on_a_channels_unit(actual: np.ndarray) -> None:
    median = actual + 0.3
    unit = np.array([1000.0, 0.01])
    one = scored(backtest(actual, median))
    quantiles = np.stack([median - 1, median, median + 1], axis=-1) * unit[:, None]
    other = backtest(actual * unit, median * unit, deviations=(1000.0, 0.01))
    other = Backtest(other.origins, other.series, other.actual, other.mean, quantiles, LEVELS, other.deviations)
    assert scored(other).pinball == pytest.approx(one.pinball)
    assert scored(other).mae == pytest.approx(one.mae)


def test_unobserved_values_count_nowhere(actual: np.ndarray) -> None:
    median = actual + 1.0
    whole = scored(backtest(actual, median))
    holed = actual.copy()
    holed[0, 2, 1] = NAN
    median[0, 2, 1] = 1e9
    assert scored(backtest(holed, median)).mae[4] == pytest.approx(whole.mae[4])


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_forecast_that_is_not_finite_is_marked(actual: np.ndarray, bad: float) -> None:
    median = actual.copy()
    median[2, 1, 0] = bad
    with np.errstate(invalid="ignore"):
        assert not scored(backtest(actual, median)).is_finite


def test_a_lead_time_that_was_never_observed_is_nan_and_nobody_is_warned(actual: np.ndarray) -> None:
    holed = actual.copy()
    holed[:, 3] = NAN
    evidence = scored(backtest(holed, actual))
    assert np.isnan(evidence.pinball_by_lead[3])
    assert np.isfinite(evidence.pinball)
