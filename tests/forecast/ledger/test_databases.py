"""The ledger promises the same on SQLite and on PostgreSQL, also while many threads use it at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.reliability.account import all_runs, wrong_ends
from forecast.config.jobs import Cause, Due, Job
from forecast.errors import ConflictError
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.receipts import Receipt
from forecast.ledger.run import Run
from forecast.scheduling.lease import Lease

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EACH = Job.model_validate(
    {"dataset": "tiny", "steps": ["forecast"], "cron": "* * * * *", "catch_up": "each", "retries": 2, "backoff": "1m"}
)
LATEST = Job.model_validate({"dataset": "tiny", "steps": ["forecast"], "cron": "* * * * *"})


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        yield opened


def dues(count: int, cause: Cause = Cause.CRON) -> list[Due]:
    times = [NOW + number * MINUTE for number in range(count)]
    return [Due(logical_date=f"{time:%Y-%m-%dT%H:%M}", at=time, cause=cause) for time in times]


def taken(ledger: Ledger, now: datetime = NOW, machine: str = "here") -> Run:
    run = ledger.runs.take(machine, now, trainings=1, others=9)
    assert run is not None
    return run


def test_of_many_that_claim_the_same_dates_each_date_is_claimed_once(
    ledger: Ledger, at_once: Callable[..., list[Any]]
) -> None:
    claimed = at_once(lambda own, number: own.runs.claim("job", EACH, dues(40)[number : number + 33], NOW))
    runs = all_runs(ledger)
    assert Counter(run.logical_date for run in runs) == Counter(due.logical_date for due in dues(40))
    assert sorted(run_id for ids in claimed for run_id in ids) == [run.run_id for run in runs]


def test_of_many_that_take_runs_each_run_is_taken_once_and_no_job_runs_twice(
    ledger: Ledger, at_once: Callable[..., list[Any]]
) -> None:
    for job in ("one", "two", "three"):
        ledger.runs.claim(job, EACH, dues(8), NOW)

    def work(own: Ledger, number: int) -> list[int]:
        mine = []
        while own.runs.queue():
            run = own.runs.take(f"machine-{number % 2}", NOW, trainings=1, others=2)
            if run is not None:
                mine.append(run.run_id)
                assert own.runs.finish(run, "succeeded", NOW, "done") == "succeeded"
        return mine

    done = [run_id for mine in at_once(work) for run_id in mine]
    runs = all_runs(ledger)
    assert sorted(done) == [run.run_id for run in runs]
    assert not list(wrong_ends(ledger))


def test_a_machine_takes_no_more_than_it_has_places_for(ledger: Ledger) -> None:
    training = Job.model_validate({"dataset": "tiny", "steps": ["retrain"]})
    for number in range(3):
        ledger.runs.claim(f"light-{number}", EACH, dues(1), NOW)
        ledger.runs.claim(f"heavy-{number}", training, dues(1), NOW)
    found = [ledger.runs.take("here", NOW, trainings=1, others=2) for _ in range(6)]
    assert [run.job for run in found if run is not None] == ["light-0", "heavy-0", "light-1"]
    assert [run.job for run in [ledger.runs.take("there", NOW, trainings=1, others=0)] if run] == ["heavy-1"]
    assert ledger.runs.take("elsewhere", NOW, trainings=0, others=0) is None


def test_what_was_missed_is_coalesced_into_the_latest_date(ledger: Ledger) -> None:
    first = ledger.runs.claim("job", LATEST, dues(3), NOW)
    second = ledger.runs.claim("job", LATEST, dues(2_000), NOW)
    assert (len(first), len(second)) == (1, 1)
    states = Counter(run.state for run in all_runs(ledger))
    assert states == {"coalesced": 1_999, "queued": 1}
    assert ledger.runs.queue()[0].logical_date == dues(2_000)[-1].logical_date
    assert ledger.runs.get(first[0]).coalesced_into == second[0]


def test_a_late_worker_changes_nothing_once_its_run_is_anothers(ledger: Ledger) -> None:
    ledger.runs.claim("job", EACH, dues(1), NOW)
    late = taken(ledger)
    assert ledger.runs.finish(late, "abandoned", NOW, "silent", retry=True) == "queued"
    assert ledger.runs.take("there", NOW, trainings=1, others=1) is None  # not before its back-off is over
    owner = taken(ledger, NOW + MINUTE, "there")
    assert (owner.run_id, owner.attempt, late.attempt) == (late.run_id, 2, 1)

    champion = Champion("tiny", "naive", "1", "1", "0" * 64, NOW, "first")
    assert not ledger.runs.beat(late, NOW)
    assert ledger.runs.finish(late, "succeeded", NOW, "at last") is None
    with pytest.raises(ConflictError, match="taken by another worker"):
        ledger.owned_by(late.run_id, late.attempt).champions.promote(champion)
    assert ledger.champions.current("tiny") is None
    ledger.owned_by(owner.run_id, owner.attempt).champions.promote(champion)
    assert ledger.champions.current("tiny") == champion
    assert ledger.runs.beat(owner, NOW)
    assert ledger.runs.finish(owner, "succeeded", NOW, "done") == "succeeded"
    assert [attempt.outcome for attempt in ledger.runs.attempts(owner.run_id)] == ["abandoned", "succeeded"]


def test_a_run_that_fails_is_tried_again_with_growing_waits_until_it_fails_for_good(ledger: Ledger) -> None:
    (run_id,) = ledger.runs.claim("job", EACH, dues(1), NOW)
    now, waits = NOW, []
    while not (run := ledger.runs.get(run_id)).has_ended:
        if run.not_before is not None:
            waits.append(run.not_before - now)
            now = run.not_before
        ledger.runs.finish(taken(ledger, now), "failed", now, "no", retry=True)
    assert (run.state, run.failures, waits) == ("failed", 3, [MINUTE, 2 * MINUTE])
    with pytest.raises(ConflictError, match="failed already"):
        ledger.runs.cancel(run_id, now)


def test_of_many_that_want_a_lease_one_gets_it_and_another_once_it_falls_silent(
    ledger: Ledger, at_once: Callable[..., list[Any]]
) -> None:
    held = at_once(lambda own, number: Lease(own, "lease", f"holder-{number}").hold())
    assert sum(held) == 1
    seconds = [0.0]
    heir = Lease(ledger, "lease", "heir", lambda: seconds[0])
    assert not heir.hold()
    seconds[0] += Lease.PATIENCE_SECONDS
    before = ledger.leases.get("lease")
    assert before is not None
    assert ledger.leases.renew("lease", before[0]) == before[1] + 1  # a sign of life in the last moment
    assert not heir.hold()
    seconds[0] += Lease.PATIENCE_SECONDS
    assert heir.hold()
    assert ledger.leases.renew("lease", before[0]) is None


def test_new_rows_are_heard_of_however_many_empty_ingestions_follow(ledger: Ledger) -> None:
    def keep(version: int | None, **counts: int) -> None:
        ledger.receipts.add(
            Receipt(dataset="tiny", sources=(), digest="", rows=1, recorded_at=NOW, data_version=version, **counts)
        )

    assert ledger.receipts.newest_change("tiny") is None
    keep(4, new=1)
    keep(5, changed=2)
    for _ in range(120):
        keep(7, unchanged=1)
    keep(None)
    assert ledger.receipts.newest_change("tiny") == 5
    assert ledger.receipts.newest_change("other") is None


def test_a_scheduler_that_was_frozen_does_not_move_a_replay_back(ledger: Ledger) -> None:
    assert ledger.clocks.position("tiny", NOW) == NOW
    ledger.clocks.move("tiny", NOW + 2 * MINUTE)
    ledger.clocks.move("tiny", NOW + MINUTE)
    assert ledger.clocks.position("tiny", NOW) == NOW + 2 * MINUTE


def test_a_run_that_this_release_cannot_read_fails_and_stops_nobody(ledger: Ledger) -> None:
    (run_id,) = ledger.runs.claim("job", EACH, dues(1), NOW)
    with ledger._database.transaction() as connection:
        connection.exec_driver_sql('UPDATE runs SET document = \'{"moon": "full"}\'')
    ledger.jobs.define("other", EACH, NOW)
    with ledger._database.transaction() as connection:
        connection.exec_driver_sql('UPDATE jobs SET document = \'{"moon": "full"}\'')
    run = taken(ledger)
    assert ledger.runs.finish(run, "abandoned", NOW, "silent", retry=True) == "failed"
    assert ledger.runs.get(run_id).has_ended
    with pytest.raises(ConflictError, match="another release"):
        _ = ledger.jobs.states()["other"].definition


def test_a_worker_notes_its_process_and_a_late_one_does_not(ledger: Ledger) -> None:
    ledger.runs.claim("job", EACH, dues(1), NOW)
    run = taken(ledger)
    ledger.runs.started(run, 41, "a.log")
    ledger.runs.started(run, 42)
    ledger.runs.started(replace(run, attempt=7), 43, "b.log")
    found = ledger.runs.get(run.run_id)
    assert (found.pid, found.log) == (42, "a.log")
    assert [attempt.pid for attempt in ledger.runs.attempts(run.run_id)] == [42]
