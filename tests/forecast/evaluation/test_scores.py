from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecast.evaluation.scores import Backtest, Evidence, Yardstick, lead_groups, score
from forecast.panel import Panel
from forecast.runtime.scaler import Scaler
from forecast.runtime.smoke_test import SmokeTest

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
        naive_errors=np.tile(2 * np.asarray(deviations), (count, 1)),
    )


def scored(result: Backtest) -> Evidence:
    seen = SmokeTest(latency_ms=1, size_mb=1, not_finite_on=(), onnx_difference=0)
    return score("linear", "v1", "digest", result, CHANNELS, (1, 4), seen)


def mae(evidence: Evidence) -> dict[int, float]:
    return {horizon: scores.mae for horizon, scores in evidence.by_horizon.items()}


def mse(evidence: Evidence) -> dict[int, float]:
    return {horizon: scores.mse for horizon, scores in evidence.by_horizon.items()}


@pytest.fixture
def actual() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4, 2))  # [N, H, C]


def test_a_perfect_forecast_has_no_error_and_covers_everything(actual: np.ndarray) -> None:
    evidence = scored(backtest(actual, actual))
    assert mae(evidence) == {1: 0.0, 4: 0.0}
    assert mse(evidence) == {1: 0.0, 4: 0.0}
    assert evidence.overall.coverage == 1.0
    assert evidence.promised_coverage == pytest.approx(0.8)
    assert evidence.windows == 5
    assert evidence.is_finite


def test_a_horizon_is_scored_on_the_steps_up_to_it(actual: np.ndarray) -> None:
    median = actual.copy()
    median[:, 1:] += 2.0
    evidence = scored(backtest(actual, median))
    assert mae(evidence) == {1: 0.0, 4: pytest.approx(1.5)}
    assert mse(evidence) == {1: 0.0, 4: pytest.approx(3.0)}
    assert (
        evidence.by_lead["pinball"][0] < evidence.by_lead["pinball"][1] == pytest.approx(evidence.by_lead["pinball"][3])
    )


def test_channels_are_averaged_in_units_of_their_own_deviation(actual: np.ndarray) -> None:
    median = actual + np.array([10.0, 0.1])
    evidence = scored(backtest(actual, median, deviations=(10.0, 0.1)))
    assert mae(evidence)[4] == pytest.approx(1.0)
    in_units = {channel: scores.mae_in_units for channel, scores in evidence.by_channel.items()}
    assert in_units == {"load": pytest.approx(10.0), "price": pytest.approx(0.1)}


def test_the_scaled_scores_do_not_depend_on_a_channels_unit(actual: np.ndarray) -> None:
    median = actual + 0.3
    unit = np.array([1000.0, 0.01])
    one = scored(backtest(actual, median))
    quantiles = np.stack([median - 1, median, median + 1], axis=-1) * unit[:, None]
    other = backtest(actual * unit, median * unit, deviations=(1000.0, 0.01))
    other = replace(other, quantiles=quantiles)
    assert scored(other).pinball == pytest.approx(one.pinball)
    assert mae(scored(other)) == pytest.approx(mae(one))
    assert scored(other).overall.mase == pytest.approx(one.overall.mase)


def test_unobserved_values_count_nowhere(actual: np.ndarray) -> None:
    median = actual + 1.0
    whole = scored(backtest(actual, median))
    holed = actual.copy()
    holed[0, 2, 1] = NAN
    median[0, 2, 1] = 1e9
    assert mae(scored(backtest(holed, median)))[4] == pytest.approx(mae(whole)[4])


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_forecast_that_is_not_finite_is_marked(actual: np.ndarray, bad: float) -> None:
    median = actual.copy()
    median[2, 1, 0] = bad
    with np.errstate(invalid="ignore"):
        assert not scored(backtest(actual, median)).is_finite


def test_a_lead_time_that_was_never_observed_is_nan_without_a_warning(actual: np.ndarray) -> None:
    holed = actual.copy()
    holed[:, 3] = NAN
    evidence = scored(backtest(holed, actual))
    assert np.isnan(evidence.by_lead["pinball"][3])
    assert np.isfinite(evidence.pinball)


def test_every_score_is_what_its_name_says(actual: np.ndarray) -> None:
    median = actual + 0.5
    scores = scored(backtest(actual, median, deviations=(2.0, 2.0))).overall
    size = np.abs(actual) + np.abs(median)
    assert scores.mse == pytest.approx(0.25 / 4)
    assert scores.rmse == pytest.approx(0.25)
    assert scores.mae == pytest.approx(0.25)
    assert scores.mase == pytest.approx(0.5 / 4)
    assert scores.smape == pytest.approx(float((1.0 / size).mean()), rel=1e-5)
    assert scores.width == pytest.approx(1.0)
    # Off by -0.5 at the median, by 0.5 above the lower and 1.5 below the upper quantile.
    pinball = 2 * (0.5 * 0.5 + 0.1 * 0.5 + 0.1 * 1.5) / 3
    assert scores.pinball == pytest.approx(pinball / 2)
    assert scores.wql == pytest.approx(pinball / float(np.abs(actual).mean()), rel=1e-5)


def test_zeros_that_are_forecast_as_zeros_have_no_percentage_error() -> None:
    nothing = np.zeros((3, 4, 2))
    scores = scored(backtest(nothing, nothing)).overall
    assert scores.smape == 0.0
    assert np.isnan(scores.wql)  # a share of nothing


def test_scores_by_series_by_lead_and_by_group_agree_with_the_whole(actual: np.ndarray) -> None:
    result = replace(backtest(actual, actual * 0.7), series=("east", "west", "east", "west", "west"))
    evidence = scored(result)
    parts = [evidence.by_series[name].pinball * count for name, count in (("east", 2), ("west", 3))]
    assert sum(parts) / 5 == pytest.approx(evidence.pinball, rel=1e-5)
    assert np.mean(evidence.by_lead["pinball"]) == pytest.approx(evidence.pinball, rel=1e-5)
    widths = np.diff((0, *evidence.group_ends))
    losses = [np.mean(group) * width for group, width in zip(evidence.group_losses, widths, strict=True)]
    assert sum(losses) / 4 == pytest.approx(evidence.pinball, rel=1e-5)


def test_an_origin_of_which_nothing_came_true_is_in_no_group(actual: np.ndarray) -> None:
    holed = actual.copy()
    holed[2] = NAN
    holed[3, 1:] = NAN
    evidence = scored(backtest(holed, actual))
    assert [len(group) for group in evidence.group_losses] == [4, 3]


def test_series_of_one_origin_are_averaged(actual: np.ndarray) -> None:
    result = backtest(actual, actual * 0.7)
    same = replace(result, origins=(result.origins[0],) * 2 + result.origins[:3])
    assert len(scored(same).group_losses[0]) == 3


def test_the_yardstick_knows_only_the_fit_rows(actual: np.ndarray) -> None:
    del actual
    values = np.arange(40.0).reshape(1, 40, 1) ** 2
    panel = Panel(("east",), datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1), values, np.empty((1, 40, 0)),
                  np.ones(values.shape, bool), {})  # fmt: skip
    scaler = Scaler.fit(panel, 20)
    yardstick = Yardstick.fit(panel, scaler, season=2, last=20)
    assert yardstick.deviations["east"] == pytest.approx((np.std(values[0, :20]),))
    assert yardstick.naive_errors["east"] == pytest.approx((np.abs(values[0, 2:20] - values[0, :18]).mean(),))


def test_a_constant_channel_has_no_scaled_naive_error() -> None:
    values = np.ones((1, 30, 1))
    panel = Panel(("east",), datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1), values, np.empty((1, 30, 0)),
                  np.ones(values.shape, bool), {})  # fmt: skip
    yardstick = Yardstick.fit(panel, Scaler.fit(panel, 20), season=2, last=20)
    assert yardstick.deviations["east"] == (1.0,)
    assert np.isnan(yardstick.naive_errors["east"][0])


@pytest.mark.parametrize(
    ("horizons", "ends"), [((24,), (6, 12, 18, 24)), ((1,), (1,)), ((3,), (1, 2, 3)), ((24, 168), (24, 168))]
)
def test_lead_times_are_grouped_at_the_horizons(horizons: tuple[int, ...], ends: tuple[int, ...]) -> None:
    assert lead_groups(horizons) == ends
