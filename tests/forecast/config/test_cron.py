from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.cron import Cron

DAY = timedelta(days=1)
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo")


def dates(cron: Cron, first: datetime, days: float) -> list[str]:
    return [cron.logical_date(due) for due in cron.between(first, first + days * DAY)]


@pytest.mark.parametrize("wall", ["01:30", "02:30", "00:00"])
@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/New_York", date(2024, 3, 10)),
        ("America/New_York", date(2024, 11, 3)),
        ("Europe/Berlin", date(2024, 3, 31)),
        ("Europe/Berlin", date(2024, 10, 27)),
        ("Australia/Lord_Howe", date(2024, 4, 7)),  # by half an hour
        ("Australia/Lord_Howe", date(2024, 10, 6)),
    ],
)
def test_a_fixed_time_comes_once_on_each_local_date(zone: str, change: date, wall: str) -> None:
    hour, minute = (int(part) for part in wall.split(":"))
    begin = datetime(change.year, change.month, change.day, tzinfo=ZoneInfo(zone)) - DAY - timedelta(minutes=1)
    found = dates(Cron(f"{minute} {hour} * * *", zone), begin.astimezone(UTC), 2.9)
    assert [text[:10] for text in found] == [str(change + n * DAY) for n in (-1, 0, 1)]


def test_the_doubled_hour_counts_once_by_its_first_pass() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    (due,) = cron.between(datetime(2024, 10, 26, 22, tzinfo=UTC), datetime(2024, 10, 27, 22, tzinfo=UTC))
    assert due == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert cron.logical_date(due) == "2024-10-27T02:30"
    # Also for who begins to look between the two passes.
    assert list(cron.between(due + timedelta(minutes=15), due + timedelta(hours=2))) == []


def test_a_time_that_spring_skips_is_due_at_the_next_valid_instant() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    (due,) = cron.between(datetime(2024, 3, 30, 23, tzinfo=UTC), datetime(2024, 3, 31, 20, tzinfo=UTC))
    assert due == datetime(2024, 3, 31, 1, 0, tzinfo=UTC)
    assert cron.logical_date(due) == "2024-03-31T03:00"


def test_times_that_spring_moves_onto_one_instant_come_once() -> None:
    cron = Cron("0,30 2,3 * * *", "Europe/Berlin")
    assert dates(cron, datetime(2024, 3, 30, 23, tzinfo=UTC), 0.5) == ["2024-03-31T03:00", "2024-03-31T03:30"]


def test_an_hourly_job_follows_the_time_that_passes_through_both_halves_of_the_doubled_hour() -> None:
    found = dates(Cron("0 * * * *", "Europe/Berlin"), datetime(2024, 10, 26, 22, 30, tzinfo=UTC), 5 / 24)
    assert found == [
        f"2024-10-27T{text}" for text in ("01:00+02:00", "02:00+02:00", "02:00+01:00", "03:00+01:00", "04:00+01:00")
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_named_hours_come_every_day_of_the_year_wherever_the_clock_changes(zone: str) -> None:
    begin = datetime(2023, 12, 31, 23, 59, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = dates(Cron("0 */6 * * *", zone), begin, 365.9)
    assert len(found) == len(set(found)) == 366 * 4


@pytest.mark.parametrize(
    ("text", "weekday"), [("0 2 * * 0", 6), ("0 2 * * 7", 6), ("0 2 * * 1", 0), ("0 2 * * sun", 6), ("0 2 * * sat", 5)]
)
def test_the_days_of_the_week_are_those_of_every_other_cron(text: str, weekday: int) -> None:
    (found,) = dates(Cron(text, "UTC"), datetime(2024, 5, 1, tzinfo=UTC), 7)
    assert datetime.fromisoformat(found).weekday() == weekday


@settings(max_examples=80, deadline=None)
@given(
    text=st.sampled_from(["* * * * *", "*/7 * * * *", "0 */6 * * *", "30 2 * * *", "0 0 1 * *", "15,45 1-3 * * 0"]),
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2023, 1, 1), datetime(2025, 1, 1)),  # noqa: DTZ001
    hours=st.integers(0, 400),
    cut=st.floats(0, 1),
)
def test_what_comes_in_two_halves_of_a_time_is_what_comes_in_the_whole(
    text: str, zone: str, start: datetime, hours: int, cut: float
) -> None:
    cron, after = Cron(text, zone), start.replace(tzinfo=UTC)
    until = after + timedelta(hours=hours)
    middle = after + cut * (until - after)
    whole = list(cron.between(after, until))
    assert [*cron.between(after, middle), *cron.between(middle, until)] == whole
    assert all(after < due <= until for due in whole)
    assert all(one < two for one, two in pairwise(whole))
    names = [cron.logical_date(due) for due in whole]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("every day", "fields"),
        ("0 0 * *", "fields"),
        ("0 0 0 * * *", "fields"),
        ("0 25 * * *", "hour"),
        ("61 * * * *", "minute"),
        ("0 0 31 2 *", "day-of-month"),
        ("0 0 * * foo", "day-of-week"),
    ],
)
def test_an_invalid_schedule_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cron(text, "UTC")
