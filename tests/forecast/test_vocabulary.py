from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.errors import ConfigError
from forecast.vocabulary import MAX_HORIZON, Horizon, Quantile, parse_duration


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_quantile_level_outside_the_open_unit_interval_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        Quantile(level)


@pytest.mark.parametrize(
    ("level", "label"), [(0.5, "q50"), (0.1, "q10"), (0.025, "q2.5"), (0.999, "q99.9"), (0.29, "q29")]
)
def test_a_quantile_is_labelled_in_percent(level: float, label: str) -> None:
    assert Quantile(level).label == label


@pytest.mark.parametrize("steps", [0, -1, MAX_HORIZON + 1, 10**9])
def test_a_horizon_out_of_range_is_refused_with_the_range(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} is not between 1 and {MAX_HORIZON}") as caught:
        Horizon(steps)
    assert caught.value.code == "horizon.out_of_range"


@pytest.mark.parametrize("steps", [1, 24, MAX_HORIZON])
def test_a_horizon_in_range_is_taken(steps: int) -> None:
    assert Horizon(steps).steps == steps


@given(count=st.integers(1, 999_999), unit=st.sampled_from("smhdw"))
def test_a_duration_is_its_count_times_its_unit(count: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert parse_duration(f"{count}{unit}") == timedelta(seconds=count * seconds)


@pytest.mark.parametrize(
    "text", ["", "h", "0h", "01h", "-1h", "1.5h", "1 h", "1H", "1y", "1h30m", " 1h", "1h\n", "1000000s"]
)
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration; write a whole number") as caught:
        parse_duration(text)
    assert caught.value.code == "duration.malformed"
