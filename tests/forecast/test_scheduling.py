import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.clock import FixedClock
from forecast.errors import ConflictError
from forecast.installation import Installation
from forecast.scheduling import Scheduler, latest_due, only_one

MakeHome = Callable[..., Installation]
WaitUntil = Callable[..., None]
Replay = Callable[..., Callable[[int], list[str]]]
DAY = timedelta(days=1)


@dataclass
class HandClock:
    """A clock that a test moves by hand."""

    time: datetime

    def now(self) -> datetime:
        return self.time


# --- what is due ------------------------------------------------------------------------------------------------------


def hourly() -> CronTrigger:
    return CronTrigger.from_crontab("0 * * * *", timezone="UTC")


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2024, 5, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "now", "due"),
    [
        (at(1), at(1, 0, 59), None),
        (at(1), at(1, 1), at(1, 1)),
        (at(1), at(1, 1, 30), at(1, 1)),
        (at(1), at(9, 7, 30), at(9, 7)),
        (at(1, 1), at(1, 1), None),
        (at(1, 0, 59), at(1, 1), at(1, 1)),
        (at(9), at(1), None),
    ],
    ids=[
        "not yet",
        "just now",
        "a while ago",
        "many missed",
        "it was that one",
        "a minute later",
        "the clock went back",
    ],
)
def test_of_all_missed_times_the_latest_is_due(after: datetime, now: datetime, due: datetime | None) -> None:
    assert latest_due(hourly(), after, now) == due


@settings(max_examples=50, deadline=None)
@given(
    cron=st.sampled_from(["* * * * *", "*/7 * * * *", "0 */6 * * *", "30 2 * * *", "0 0 1 * *", "0 0 29 2 *"]),
    zone=st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe"]),
    start=st.datetimes(datetime(2023, 1, 1), datetime(2025, 1, 1)),  # noqa: DTZ001
    minutes=st.integers(0, 600_000),
)
def test_what_is_due_fired_within_the_time_asked_for_and_nothing_after_it_did(
    cron: str, zone: str, start: datetime, minutes: int
) -> None:
    trigger = CronTrigger.from_crontab(cron, timezone=zone)
    after = start.replace(tzinfo=UTC)
    now = after + timedelta(minutes=minutes)
    due = latest_due(trigger, after, now)
    following = trigger.get_next_fire_time(None, (due or after) + timedelta(microseconds=1))
    assert following is None or following > now
    assert due is None or after < due <= now


# --- one run per logical date -----------------------------------------------------------------------------------------


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker be a process that ends at once, so that many days go by in a second."""

    def start(_installation: Installation, _run_id: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["true"])
        process.wait()
        return process

    monkeypatch.setattr("forecast.scheduling.start_worker", start)


@pytest.fixture
def replayed(make_home: MakeHome, tiny_document: dict[str, Any]) -> Replay:
    """Make a replay that goes on an hour per tick; what it returns lets hours go by and tells the logical dates."""

    def make(start: datetime, zone: str = "UTC", **schedule: str) -> Callable[[int], list[str]]:
        source = {"kind": "replay", "path": "rows.parquet", "start": start, "speed": 3600}
        tiny_document["datasets"]["tiny"] |= {"source": source, "zone": zone, "schedule": schedule}
        installation = make_home(document=tiny_document)
        clock = HandClock(datetime(2030, 1, 1, tzinfo=UTC))
        scheduler = Scheduler(installation, clock)

        def let_go_by(hours: int) -> list[str]:
            for _ in range(hours):
                clock.time += timedelta(seconds=1)
                scheduler.tick()
            return sorted(run.logical_date for run in installation.ledger.runs(limit=1000))

        return let_go_by

    return make


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize("wall", ["01:30", "02:30", "00:00"])
@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/New_York", date(2024, 3, 10)),
        ("America/New_York", date(2024, 11, 3)),
        ("Europe/Berlin", date(2024, 3, 31)),
        ("Europe/Berlin", date(2024, 10, 27)),
        pytest.param("Australia/Lord_Howe", date(2024, 4, 7), marks=pytest.mark.timeout(20)),  # by half an hour
        ("UTC", date(2024, 3, 31)),
    ],
)
def test_a_nightly_job_runs_once_on_each_local_date_also_when_the_clock_changes(
    replayed: Replay, zone: str, change: date, wall: str
) -> None:
    hour, minute = wall.split(":")
    start = datetime(change.year, change.month, change.day, 20)  # noqa: DTZ001
    let_go_by = replayed(start - 2 * DAY, zone, retrain=f"{int(minute)} {int(hour)} * * *")
    dates = let_go_by(72)
    assert dates == [f"{change + number * DAY}T{wall}" for number in (-1, 0, 1)]


@pytest.mark.usefixtures("quick_workers")
def test_an_hourly_job_runs_once_in_the_hour_that_autumn_doubles(replayed: Replay) -> None:
    let_go_by = replayed(datetime(2024, 10, 26, 23, 30), "Europe/Berlin", refresh="0 * * * *")  # noqa: DTZ001
    assert let_go_by(7) == [f"2024-10-27T{hour:02}:00" for hour in range(6)]


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    ("cron", "weekday"), [("0 2 * * 0", 6), ("0 2 * * 7", 6), ("0 2 * * 1", 0), ("0 2 * * sun", 6), ("0 2 * * sat", 5)]
)
def test_the_days_of_the_week_are_those_of_every_other_cron(replayed: Replay, cron: str, weekday: int) -> None:
    (found,) = replayed(datetime(2024, 5, 1), refresh=cron)(7 * 24)  # noqa: DTZ001
    assert datetime.fromisoformat(found).weekday() == weekday


@pytest.mark.usefixtures("quick_workers")
def test_a_machine_that_slept_moves_a_replay_on_by_seconds_not_by_the_night(
    make_home: MakeHome, tiny_document: dict[str, Any]
) -> None:
    tiny_document["datasets"]["tiny"]["source"] = {
        "kind": "replay",
        "path": "x",
        "start": datetime(2024, 5, 1),  # noqa: DTZ001
        "speed": 60,
    }
    installation = make_home(document=tiny_document)
    clock = HandClock(at(1))
    scheduler = Scheduler(installation, clock)
    clock.time += timedelta(hours=8)
    scheduler.tick()
    assert installation.clock("tiny").now() <= at(1) + timedelta(minutes=5)


@pytest.mark.usefixtures("quick_workers")
def test_a_clock_that_was_set_back_does_not_set_a_replay_back(
    make_home: MakeHome, tiny_document: dict[str, Any]
) -> None:
    tiny_document["datasets"]["tiny"]["source"] = {
        "kind": "replay",
        "path": "x",
        "start": datetime(2024, 5, 1),  # noqa: DTZ001
        "speed": 60,
    }
    installation = make_home(document=tiny_document)
    clock = HandClock(at(2))
    scheduler = Scheduler(installation, clock)
    clock.time -= timedelta(hours=1)
    scheduler.tick()
    assert installation.clock("tiny").now() == at(1)


@pytest.mark.usefixtures("quick_workers")
def test_a_day_of_downtime_is_caught_up_by_one_run(make_home: MakeHome, tiny_document: dict[str, Any]) -> None:
    tiny_document["datasets"]["tiny"]["schedule"] = {"refresh": "0 * * * *"}
    installation = make_home(document=tiny_document)
    now = installation.clock("tiny").now()
    yesterday = (now - DAY).replace(tzinfo=None).isoformat(timespec="minutes")
    installation.ledger.claim("tiny/refresh", "tiny", "refresh", yesterday, now)
    scheduler = Scheduler(installation)
    for _ in range(3):
        scheduler.tick()
    caught_up = [run.logical_date for run in installation.ledger.runs() if run.logical_date != yesterday]
    assert len(caught_up) == 1
    assert caught_up[0] == now.replace(tzinfo=None, minute=0).isoformat(timespec="minutes")


def test_a_run_whose_worker_cannot_be_started_does_not_stay_running(
    make_home: MakeHome, tiny_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_document["datasets"]["tiny"]["schedule"] = {"refresh": "0 0 * * *"}
    installation = make_home(document=tiny_document)
    scheduler = Scheduler(installation, FixedClock(installation.clock("tiny").now() - 2 * DAY))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with contextlib.suppress(OSError):
        scheduler.tick()
    assert [run.state for run in installation.ledger.runs()] in (["abandoned"], ["failed"])


# --- real workers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduled(
    tiny_home: Installation, tiny_document: dict[str, Any], make_home: MakeHome
) -> Iterator[tuple[Scheduler, Installation]]:
    """A scheduler of the tiny home, one refresh overdue."""
    tiny_document["datasets"]["tiny"]["schedule"] = {"refresh": "0 0 * * *"}
    installation = make_home(document=tiny_document)
    scheduler = Scheduler(installation, FixedClock(tiny_home.clock("tiny").now() - DAY - timedelta(minutes=1)))
    yield scheduler, installation
    scheduler.stop()


def test_an_overdue_refresh_ingests_and_issues_a_forecast_in_a_process_of_its_own(
    scheduled: tuple[Scheduler, Installation], tiny_rows: Callable[..., pl.DataFrame], wait_until: WaitUntil
) -> None:
    scheduler, installation = scheduled
    tiny_rows(401).write_csv(installation.home.path / "rows.csv")
    scheduler.tick()
    (run,) = installation.ledger.runs()
    assert (run.job, run.state) == ("tiny/refresh", "running")
    wait_until(lambda: scheduler.tick() or installation.ledger.run(run.run_id).state != "running", 60)
    ended = installation.ledger.run(run.run_id)
    assert ended.state == "succeeded", ended.reason
    assert str(ended.reason).startswith("2 new and 800 changed rows; forecast ")
    issuance = installation.ledger.issuance("tiny")
    assert issuance is not None
    assert issuance.data_version == 1
    assert len(installation.ledger.runs()) == 1


def test_a_worker_that_is_killed_leaves_its_run_abandoned(
    scheduled: tuple[Scheduler, Installation], wait_until: WaitUntil
) -> None:
    scheduler, installation = scheduled
    source = installation.home.path / "rows.csv"
    source.unlink()
    os.mkfifo(source)  # whoever reads it waits for a writer that never comes
    scheduler.tick()
    (worker,) = scheduler._workers.values()
    worker.process.kill()
    wait_until(lambda: scheduler.tick() or installation.ledger.run(worker.run_id).state != "running")
    ended = installation.ledger.run(worker.run_id)
    assert (ended.state, ended.reason) == ("abandoned", "the worker died with exit code -9")


def test_a_stopped_scheduler_stops_its_workers_and_says_so(scheduled: tuple[Scheduler, Installation]) -> None:
    scheduler, installation = scheduled
    source = installation.home.path / "rows.csv"
    source.unlink()
    os.mkfifo(source)
    scheduler.tick()
    (worker,) = scheduler._workers.values()
    scheduler.stop()
    assert worker.process.poll() is not None
    assert installation.ledger.run(worker.run_id).state == "abandoned"


def test_a_second_scheduler_of_a_home_is_refused(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "scheduler.lock"),
        pytest.raises(ConflictError) as caught,
        only_one(tmp_path / "scheduler.lock"),
    ):
        pass
    assert caught.value.code == "scheduler.running"
    with only_one(tmp_path / "scheduler.lock"):
        pass  # the first has let go


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_scheduler_takes_over_from_a_dead_one_and_leaves_nothing_running_when_it_is_stopped(
    make_home: MakeHome, tiny_document: dict[str, Any], wait_until: WaitUntil, signum: signal.Signals
) -> None:
    start = datetime(2024, 1, 11)  # noqa: DTZ001
    tiny_document["datasets"]["tiny"] |= {
        "source": {"kind": "replay", "path": "rows.parquet", "start": start, "speed": 1e6},
        "schedule": {"refresh": "0 0 * * *"},
    }
    installation = make_home(document=tiny_document)
    os.mkfifo(installation.home.path / "rows.parquet")
    ledger = installation.ledger
    orphan = ledger.claim("tiny/retrain", "tiny", "retrain", "2024-01-01T00:00", start.replace(tzinfo=ZoneInfo("UTC")))
    assert orphan is not None
    command = [sys.executable, "-m", "forecast", "schedule", "--home", str(installation.home.path)]
    log = installation.home.path / "scheduler.log"
    with log.open("wb") as stream:
        scheduler = subprocess.Popen(command, stderr=stream)
    try:
        wait_until(lambda: ledger.run(orphan).state == "abandoned" and len(ledger.runs()) == 2, 60)
        worker = ledger.runs()[0].run_id
        scheduler.send_signal(signum)
        assert scheduler.wait(30) == 0
    finally:
        scheduler.kill()
        scheduler.wait()
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert ledger.run(worker).state == "abandoned"
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"worker {worker} --home {installation.home.path}" not in listing
