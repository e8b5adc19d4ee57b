"""What was due in a bad moment is not forgotten, and what slept is not taken for dead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forecast.config.jobs import Cause, Due, Job
from forecast.errors import StorageError
from forecast.installation import Installation
from forecast.ledger import Ledger
from forecast.ledger.database import Database
from forecast.ledger.receipts import Receipt
from forecast.ledger.runs import Runs
from forecast.scheduling.scheduler import Scheduler
from forecast.scheduling.watchdog import Watchdog

NOW = datetime(2027, 5, 1, 12, 0, 30, tzinfo=UTC)
NIGHTLY = {"dataset": "tiny", "steps": ["retrain"], "cron": "30 2 * * *"}
ON_DATA = {"dataset": "tiny", "steps": ["forecast"], "on": ["data"]}


class FaultyRuns(Runs):
    """Runs that cannot be claimed while the ledger's disk is full."""

    is_full = False

    def claim(self, job: str, definition: Job, dates: Sequence[Due], now: datetime) -> list[int]:
        if self.is_full and dates:
            raise StorageError("ledger.failed", "the disk is full", "free some space")
        return super().claim(job, definition, dates, now)


class Faulty(Ledger):
    """A ledger with such runs."""

    runs: FaultyRuns

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.runs = FaultyRuns(database)


@dataclass
class HandClock:
    """A clock that a test moves by hand."""

    time: datetime

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def faulty(make_home: Callable[..., Installation], tiny_document: dict[str, Any]) -> Iterator[Installation]:
    made = make_home(document=tiny_document | {"jobs": {"nightly": NIGHTLY, "on-data": ON_DATA}})
    with Faulty.open(made.home.ledger_url) as ledger:
        yield replace(made, ledger=ledger)


def test_what_could_not_be_claimed_is_claimed_at_the_next_beat(faulty: Installation) -> None:
    clock = HandClock(NOW)
    scheduler = Scheduler(faulty, clock)
    scheduler.tick()
    faulty.ledger.receipts.add(
        Receipt(dataset="tiny", sources=(), digest="", rows=1, new=1, data_version=7, recorded_at=clock.time)
    )
    clock.time += timedelta(days=1)

    faulty.ledger.runs.is_full = True  # type: ignore[attr-defined]
    for _ in range(3):
        scheduler.tick()
    assert faulty.ledger.runs.find() == []

    faulty.ledger.runs.is_full = False  # type: ignore[attr-defined]
    scheduler.tick()
    assert {run.logical_date for run in faulty.ledger.runs.find()} == {"2027-05-02T02:30", "data-7"}
    scheduler.tick()
    assert len(faulty.ledger.runs.find()) == 2


def test_a_watchdog_that_was_suspended_itself_waits_again_before_it_gives_a_run_up(faulty: Installation) -> None:
    ledger, seconds = faulty.ledger, [0.0]
    job = Job.model_validate(ON_DATA)
    ledger.runs.claim("on-data", job, [Due(logical_date="one", at=NOW, cause=Cause.HAND)], NOW)
    assert ledger.runs.take("far away", NOW, trainings=1, others=1) is not None
    watchdog = Watchdog(ledger, lambda: seconds[0])
    assert watchdog.check(NOW) == []
    seconds[0] += 3_600  # all of them were suspended together
    assert watchdog.check(NOW) == []
    seconds[0] += Watchdog.SILENT_SECONDS + 1
    assert [run.logical_date for run in watchdog.check(NOW)] == ["one"]
