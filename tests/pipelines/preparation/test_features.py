from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.config.file import ConfigFile
from pipelines.preparation.features import FUTURE_FEATURES, known_future

HOUR = timedelta(hours=1)
MakeJob = Callable[..., DatasetConfig]
HOLIDAY, WEEKEND = FUTURE_FEATURES.index("holiday"), FUTURE_FEATURES.index("weekend")
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe")


def plain_job(zone: str, holidays: str = "") -> DatasetConfig:
    return ConfigFile.model_validate(
        {
            "datasets": {
                "x": {
                    "source": {"kind": "csv", "path": "x"},
                    "frequency": "1h",
                    "zone": zone,
                    "holidays": holidays,
                    "horizons": [1],
                    "lookback": 1,
                    "season": 1,
                    "models": ["linear"],
                    "channels": {"load": {"role": "target"}},
                }
            }
        }
    ).datasets["x"]


def hours_of(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@settings(max_examples=60, deadline=None)
@given(
    start=st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1)),  # noqa: DTZ001
    seconds=st.sampled_from([60, 900, 3600, 86_400, 604_800]),
    count=st.integers(1, 400),
    zone=st.sampled_from(ZONES),
    holidays=st.sampled_from(["", "US", "US-NY", "DE-BY"]),
)
def test_every_feature_is_finite_and_lies_between_minus_one_and_one(
    start: datetime, seconds: int, count: int, zone: str, holidays: str
) -> None:
    features = known_future(
        start.replace(tzinfo=UTC, microsecond=0), timedelta(seconds=seconds), count, plain_job(zone, holidays)
    )
    assert features.shape == (count, len(FUTURE_FEATURES))
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 1.0


@settings(max_examples=60, deadline=None)
@given(
    start=st.datetimes(datetime(2019, 12, 20), datetime(2023, 1, 10)),  # noqa: DTZ001
    skipped=st.integers(0, 500),
    zone=st.sampled_from(ZONES),
)
def test_a_time_has_the_same_features_whichever_start_it_is_reached_from(
    start: datetime, skipped: int, zone: str
) -> None:
    config, begin = plain_job(zone, "US-NY"), start.replace(tzinfo=UTC, minute=0, second=0, microsecond=0)
    whole = known_future(begin, HOUR, skipped + 5, config)
    assert np.array_equal(whole[skipped:], known_future(begin + skipped * HOUR, HOUR, 5, config))


@pytest.mark.parametrize(("zone", "day"), [("America/New_York", date(2023, 7, 4)), ("Europe/Berlin", date(2023, 7, 4))])
def test_a_holiday_lasts_from_local_midnight_to_local_midnight(zone: str, day: date) -> None:
    features = known_future(hours_of(day, zone) - HOUR, HOUR, 26, plain_job(zone, "US"))
    assert features[:, HOLIDAY].tolist() == [0.0] + [1.0] * 24 + [0.0]


@pytest.mark.parametrize(("day", "hours"), [(date(2024, 3, 31), 23), (date(2024, 10, 27), 25)])
def test_a_day_on_which_the_clock_changes_has_its_own_length(day: date, hours: int) -> None:
    begin = hours_of(day, "Europe/Berlin")
    weekend = known_future(begin, HOUR, hours + 1, plain_job("Europe/Berlin"))[:, WEEKEND]
    assert weekend.tolist() == [1.0] * hours + [0.0]  # both are Sundays


def test_the_two_readings_of_a_doubled_hour_have_the_same_hour_of_the_day() -> None:
    features = known_future(datetime(2024, 10, 27, 0, tzinfo=UTC), HOUR, 2, plain_job("Europe/Berlin"))
    assert np.array_equal(features[0], features[1])


def test_the_same_local_hour_of_summer_and_winter_is_the_same_hour_of_the_day() -> None:
    zone = "America/New_York"
    summer, winter = (
        known_future(hours_of(date(2023, month, 10), zone), HOUR, 24, plain_job(zone))[:, :2] for month in (1, 7)
    )
    assert np.allclose(summer, winter)


def test_where_no_holidays_are_asked_for_no_day_is_one() -> None:
    assert not known_future(datetime(2023, 1, 1, tzinfo=UTC), HOUR, 24 * 365, plain_job("UTC"))[:, HOLIDAY].any()


def test_a_subdivision_has_holidays_of_its_own() -> None:
    corpus_christi = hours_of(date(2024, 5, 30), "Europe/Berlin")
    bavaria, berlin = (
        known_future(corpus_christi, HOUR, 24, plain_job("Europe/Berlin", place))[:, HOLIDAY]
        for place in ("DE-BY", "DE-BE")
    )
    assert bavaria.all()
    assert not berlin.any()
