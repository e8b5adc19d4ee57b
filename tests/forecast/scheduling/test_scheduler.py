import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from forecast.config.alerts import AlertKind
from forecast.config.jobs import Cause, Job
from forecast.installation import Installation
from forecast.monitoring.alerts import AlertFinding
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER
from forecast.scheduling.scheduler import Scheduler
from pipelines.ingestion.ingest import ingest

MakeHome = Callable[..., Installation]
WaitUntil = Callable[..., None]
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@dataclass
class HandClock:
    """A clock that a test moves by hand; what it counts of seconds goes on with it."""

    time: datetime
    seconds: float = field(default=0.0)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def go_on(self, by: timedelta) -> None:
        self.time += by
        self.seconds += by.total_seconds()


@pytest.fixture
def clock() -> HandClock:
    return HandClock(datetime(2024, 5, 1, 12, tzinfo=UTC))


@pytest.fixture
def home_with(make_home: MakeHome, tiny_document: dict[str, Any]) -> Callable[..., Installation]:
    """Make a home whose config file has some jobs of the tiny data set."""

    def make(zone: str = "UTC", **jobs: dict[str, Any]) -> Installation:
        tiny_document["datasets"]["tiny"]["zone"] = zone
        tiny_document["jobs"] = {name: {"dataset": "tiny", "steps": ["ingest"]} | job for name, job in jobs.items()}
        return make_home(document=tiny_document)

    return make


@pytest.fixture
def scheduler_of(clock: HandClock) -> Callable[..., Scheduler]:
    """Make a scheduler that lives by the clock moved by hand, and let it see the jobs for the first time."""

    def make(installation: Installation, name: str = "one") -> Scheduler:
        # A job's clock is the machine's; only a replay has its own. The first sight dates from the hand's time too.
        for known in JobBook(installation).jobs().values():
            timing = f"{known.definition.cron} {known.definition.zone}".strip()
            installation.ledger.jobs.see(known.name, timing, clock.now())
        return Scheduler(installation, clock, name=name, monotonic=clock.monotonic)

    return make


def queued(installation: Installation, **which: Any) -> list[str]:
    return sorted(run.logical_date for run in installation.ledger.runs.find(states=("queued",), limit=1000, **which))


# --- dates ------------------------------------------------------------------------------------------------------------


def test_nothing_is_due_before_its_time(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(nightly={"cron": "30 2 * * *"})
    scheduler = scheduler_of(installation)
    scheduler.tick()
    clock.go_on(14 * HOUR)
    scheduler.tick()
    assert installation.ledger.runs.find() == []
    clock.go_on(HOUR / 2)
    scheduler.tick()
    scheduler.tick()
    assert queued(installation) == ["2024-05-02T02:30"]


@pytest.mark.parametrize("change", [date(2024, 3, 31), date(2024, 10, 27)])
def test_a_nightly_job_has_one_run_on_each_local_date(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock, change: date
) -> None:
    installation = home_with("Europe/Berlin", nightly={"cron": "30 2 * * *", "catch_up": "each"})
    clock.time = datetime(change.year, change.month, change.day, 12, tzinfo=UTC) - 2 * DAY
    scheduler = scheduler_of(installation)
    for _ in range(72 * 2):
        clock.go_on(HOUR / 2)
        scheduler.tick()
    assert [text[:10] for text in queued(installation)] == [str(change + n * DAY) for n in (-1, 0, 1)]


def test_a_day_of_downtime_is_caught_up_by_one_run_and_every_date_has_ended(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(hourly={"cron": "0 * * * *"})
    scheduler_of(installation).tick()
    clock.go_on(DAY)
    scheduler = scheduler_of(installation, "another")
    for _ in range(6):
        scheduler.tick()
        clock.go_on(timedelta(seconds=1))
    (latest,) = installation.ledger.runs.find(states=("queued",))
    assert latest.logical_date == "2024-05-02T12:00+00:00"
    others = installation.ledger.runs.find(states=("coalesced",), limit=100)
    assert len(others) == 23
    assert {run.coalesced_into for run in others} == {latest.run_id}


def test_a_job_that_wants_each_date_gets_each_after_downtime(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(hourly={"cron": "0 * * * *", "catch_up": "each"})
    scheduler = scheduler_of(installation)
    scheduler.tick()
    clock.go_on(5 * HOUR)
    scheduler.tick()
    assert len(queued(installation)) == 5


def test_a_job_that_is_new_or_whose_schedule_has_changed_catches_up_nothing(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(yearly={"cron": "0 0 1 1 *"})
    scheduler_of(installation).tick()
    clock.go_on(30 * DAY)
    changed = home_with(yearly={"cron": "0 * * * *"})
    scheduler = scheduler_of(changed, "another")
    for _ in range(6):
        scheduler.tick()
        clock.go_on(timedelta(seconds=1))
    assert changed.ledger.runs.find() == []


def test_a_clock_that_was_set_back_runs_no_date_again(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(hourly={"cron": "0 * * * *", "catch_up": "each"})
    scheduler = scheduler_of(installation)
    for hours in (3, -2, 1, 1, 1):
        clock.time += hours * HOUR
        scheduler.tick()
    assert queued(installation) == [f"2024-05-01T{hour}:00+00:00" for hour in (13, 14, 15, 16)]


def test_a_paused_job_rests_and_catches_up_nothing_when_it_goes_on(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(hourly={"cron": "0 * * * *"})
    scheduler = scheduler_of(installation)
    installation.ledger.jobs.pause("hourly", clock.now(), paused=True)
    scheduler.tick()
    clock.go_on(5 * HOUR)
    scheduler.tick()
    installation.ledger.jobs.pause("hourly", clock.now(), paused=False)
    scheduler.tick()
    assert installation.ledger.runs.find() == []
    clock.go_on(HOUR)
    scheduler.tick()
    assert len(queued(installation)) == 1


def test_a_job_of_the_ledger_runs_like_one_of_the_config_file(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with()
    scheduler = scheduler_of(installation)
    scheduler.tick()
    job = Job.model_validate({"dataset": "tiny", "steps": ["ingest"], "cron": "0 * * * *"})
    installation.ledger.jobs.define("hourly", job, clock.now())
    clock.go_on(HOUR)
    scheduler.tick()
    assert [run.job for run in installation.ledger.runs.find()] == ["hourly"]


def test_trouble_with_one_job_stays_with_it(
    home_with: Callable[..., Installation],
    scheduler_of: Callable[..., Scheduler],
    clock: HandClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    installation = home_with(
        broken={"steps": ["forecast"], "on": ["watermark"]}, fine={"cron": "0 * * * *", "catch_up": "each"}
    )
    (installation.home.path / "rows.csv").write_text("time,site,load,price,wind\n2024-01-01 00:00,east,1,1,1\n")
    ingest(installation.dataset("tiny"))
    for file in installation.home.lake.rglob("*.parquet"):
        file.write_bytes(b"no parquet at all")
    scheduler = scheduler_of(installation)
    clock.go_on(HOUR)
    scheduler.tick()
    assert [run.job for run in installation.ledger.runs.find()] == ["fine"]
    assert "job broken: " in caplog.text


# --- triggers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def push(tiny_rows: Callable[..., pl.DataFrame]) -> Callable[..., None]:
    def more(installation: Installation, hours: int, **rows: Any) -> None:
        tiny_rows(hours, **rows).write_csv(installation.home.path / "rows.csv")
        ingest(installation.dataset("tiny"))

    return more


def test_rows_that_come_in_make_a_job_due_once(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], push: Callable[..., None]
) -> None:
    installation = home_with(follow={"steps": ["forecast"], "on": ["data"]})
    scheduler = scheduler_of(installation)
    scheduler.tick()
    assert installation.ledger.runs.find() == []
    push(installation, 100)
    scheduler.tick()
    scheduler.tick()
    assert queued(installation) == ["data-0"]
    push(installation, 100)  # nothing is new
    scheduler.tick()
    assert queued(installation) == ["data-0"]
    push(installation, 101)
    scheduler.tick()
    assert queued(installation) == ["data-1"]  # what still waited ends in it
    assert installation.ledger.runs.find()[0].cause == Cause.DATA


def test_only_a_step_that_every_series_has_moves_the_watermark(
    home_with: Callable[..., Installation],
    scheduler_of: Callable[..., Scheduler],
    push: Callable[..., None],
    tiny_rows: Callable[..., pl.DataFrame],
) -> None:
    installation = home_with(follow={"steps": ["forecast"], "on": ["watermark"]})
    scheduler = scheduler_of(installation)
    push(installation, 100)
    scheduler.tick()
    assert queued(installation) == ["watermark-2024-01-05T03:00Z"]
    rows = tiny_rows(101)
    rows.filter((pl.col("site") == "east") | (pl.int_range(pl.len()) < 150)).write_csv(
        installation.home.path / "rows.csv"
    )
    ingest(installation.dataset("tiny"))
    scheduler.tick()
    assert len(installation.ledger.runs.find()) == 1
    push(installation, 102)
    scheduler.tick()
    assert queued(installation) == ["watermark-2024-01-05T05:00Z"]


def test_a_job_hears_no_trigger_while_it_rests(
    home_with: Callable[..., Installation],
    scheduler_of: Callable[..., Scheduler],
    push: Callable[..., None],
    clock: HandClock,
) -> None:
    installation = home_with(follow={"steps": ["forecast"], "on": ["data"], "at_most_every": "6h"})
    scheduler = scheduler_of(installation)
    push(installation, 100)
    scheduler.tick()
    push(installation, 101)
    clock.go_on(5 * HOUR)
    for _ in range(6):
        scheduler.tick()
        clock.go_on(timedelta(seconds=1))
    assert queued(installation) == ["data-0"]
    clock.go_on(HOUR)
    for _ in range(6):
        scheduler.tick()
        clock.go_on(timedelta(seconds=1))
    assert queued(installation) == ["data-1"]


def test_an_alert_asks_for_a_retrain_once_and_again_when_it_comes_back(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(renew={"steps": ["retrain"], "on": ["drift", "regression"]})
    scheduler, ledger = scheduler_of(installation), installation.ledger
    scheduler.tick()
    assert ledger.runs.find() == []
    for count in (1, 2):
        ledger.alerts.update("tiny", [AlertFinding(AlertKind.DRIFT, "load", "load drifted away")], clock.now())
        for _ in range(2):
            scheduler.tick()
        assert [run.cause for run in ledger.runs.find()] == [Cause.DRIFT] * count
        ledger.alerts.update("tiny", [], clock.now())
        scheduler.tick()
    ledger.alerts.update("tiny", [AlertFinding(AlertKind.STALE, "data", "nothing came")], clock.now())
    scheduler.tick()
    assert len(ledger.runs.find()) == 2


# --- several schedulers -----------------------------------------------------------------------------------------------


def test_of_two_schedulers_one_works_and_the_other_takes_over(
    home_with: Callable[..., Installation], scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    installation = home_with(often={"cron": "* * * * *", "catch_up": "each"})
    first, second = scheduler_of(installation, "first"), scheduler_of(installation, "second")
    first.tick()
    for _ in range(90):
        clock.go_on(timedelta(seconds=1))
        first.tick()
        second.tick()
    held = installation.ledger.leases.get(SCHEDULER)
    assert held is not None
    assert held[0] == "first"
    for _ in range(90):
        clock.go_on(timedelta(seconds=1))
        second.tick()
    held = installation.ledger.leases.get(SCHEDULER)
    assert held is not None
    assert held[0] == "second"
    assert len(queued(installation)) == 3


# --- replays ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def replayed(make_home: MakeHome, tiny_document: dict[str, Any]) -> Installation:
    tiny_document["datasets"]["tiny"]["source"] = {
        "kind": "replay",
        "path": "x",
        "start": datetime(2024, 5, 1),  # noqa: DTZ001
        "speed": 60,
    }
    return make_home(document=tiny_document)


def test_a_machine_that_slept_moves_a_replay_on_by_seconds_not_by_the_night(
    replayed: Installation, scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    scheduler = scheduler_of(replayed)
    scheduler.tick()
    clock.go_on(8 * HOUR)
    scheduler.tick()
    begin = datetime(2024, 5, 1, tzinfo=UTC)
    assert begin < replayed.dataset("tiny").clock.now() <= begin + timedelta(minutes=5)


def test_a_clock_that_was_set_back_does_not_set_a_replay_back(
    replayed: Installation, scheduler_of: Callable[..., Scheduler], clock: HandClock
) -> None:
    scheduler = scheduler_of(replayed)
    scheduler.tick()
    clock.time -= HOUR
    scheduler.tick()
    assert replayed.dataset("tiny").clock.now() == datetime(2024, 5, 1, tzinfo=UTC)


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_scheduler_that_is_stopped_lets_its_lease_go(
    home_with: Callable[..., Installation], wait_until: WaitUntil, signum: signal.Signals
) -> None:
    installation = home_with(often={"cron": "* * * * *"})
    command = [sys.executable, "-m", "forecast", "schedule", "--home", str(installation.home.path)]
    log = installation.home.path / "scheduler.log"
    with log.open("wb") as stream:
        scheduler = subprocess.Popen(command, stderr=stream)
    try:
        wait_until(
            lambda: installation.ledger.leases.get(SCHEDULER) and "often" in installation.ledger.jobs.states(), 60
        )
        scheduler.send_signal(signum)
        assert scheduler.wait(30) == 0
    finally:
        scheduler.kill()
        scheduler.wait()
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert installation.ledger.leases.get(SCHEDULER) is None
