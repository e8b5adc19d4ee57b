"""A year of outages, freezes, jumping clocks and dying workers: every date is there once and has ended once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reliability.dates import at_wall_times, every_hour
from benchmarks.reliability.year import Year
from forecast.config.cron import Cron

ZONES = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca")


@pytest.mark.slow
@pytest.mark.timeout(900)  # 50 s of computing, of which a busy machine may make many minutes
def test_no_date_of_a_year_in_four_zones_is_lost_or_run_twice(tmp_path: Path) -> None:
    year = Year(tmp_path, seed=3, hours=24)
    try:
        year.run()
        assert not list(year.wrong())
        counts = year.counts
        # Or the year was too kind to prove anything.
        assert min(counts.outages, counts.freezes, counts.jumps, counts.takeovers, counts.deaths, counts.refused) > 3
    finally:
        year.close()


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2023, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001
    minute=st.integers(0, 59),
    hours=st.sampled_from([range(2, 3), range(0, 24, 6), range(1, 4), range(24)]),
)
def test_cron_and_a_look_at_every_wall_time_agree(zone: str, start: datetime, minute: int, hours: range) -> None:
    after = start.replace(tzinfo=UTC)
    until = after + timedelta(days=200)  # over one change of the clock at least, where there is one
    cron = Cron(f"{minute} {','.join(map(str, hours))} * * *", zone)
    dates = {cron.logical_date(due): due for due in cron.between(after, until)}
    assert dates == at_wall_times(hours, minute, zone, after, until)


@settings(max_examples=30, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2023, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001
    minute=st.sampled_from([0, 15, 30, 45]),
)
def test_an_hourly_cron_and_a_look_at_every_quarter_agree(zone: str, start: datetime, minute: int) -> None:
    after = start.replace(tzinfo=UTC)
    until = after + timedelta(days=200)
    cron = Cron(f"{minute} * * * *", zone)
    dates = {cron.logical_date(due): due for due in cron.between(after, until)}
    assert dates == every_hour(minute, zone, after, until)
