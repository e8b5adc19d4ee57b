"""Two machines take runs from one ledger in PostgreSQL: no run twice, and one goes on with what the other left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.reliability.account import all_runs, wrong_ends
from benchmarks.reliability.fleet import Fleet, kill, wait_for
from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook

pytestmark = pytest.mark.timeout(600)
NEAR, FAR = "near", "far"
BLOCKED, QUICK = ("one", "two", "three", "four"), "quick"
GIVEN_UP_SECONDS = 30.0
"""Twice what is promised (and measured by ``make soak``): this machine may have other things to do."""


@pytest.fixture
def shared(
    postgresql: sa.URL, busy_home: Path, monkeypatch: pytest.MonkeyPatch, to_toml: Callable[..., str]
) -> Installation:
    """A home whose ledger lies in PostgreSQL: four jobs that block for ever in their source, one that does not."""
    engine = sa.create_engine(postgresql)
    with engine.begin() as connection:
        connection.exec_driver_sql("drop schema public cascade; create schema public")
    engine.dispose()
    monkeypatch.setenv("FORECAST_LEDGER_URL", postgresql.render_as_string(hide_password=False))
    text = (busy_home / "forecast.toml").read_text(encoding="utf-8").partition("[jobs.")[0]
    blocked = text.partition("[datasets.pushed]")[2].replace('{ kind = "push" }', '{ kind = "csv", path = "pipe.csv" }')
    jobs = {name: {"dataset": "blocked", "steps": ["ingest"], "backoff": "1s", "retries": 3} for name in BLOCKED}
    jobs[QUICK] = {"dataset": "tiny", "steps": ["ingest"], "backoff": "1s", "retries": 3}
    document = f"{text}[datasets.blocked]{blocked}{to_toml({'jobs': jobs})}"
    (busy_home / "forecast.toml").write_text(document, encoding="utf-8")
    os.mkfifo(busy_home / "pipe.csv")
    shutil.rmtree(busy_home / "lake")
    return Installation.open(busy_home)


@pytest.mark.slow
def test_two_machines_share_the_work_and_one_takes_over_what_the_other_left(shared: Installation) -> None:
    ledger, book = shared.ledger, JobBook(shared)
    blocked = [book.run_now(name) for name in BLOCKED]

    def on(machine: str) -> list[int]:
        return [
            run.run_id for run in ledger.runs.find(states=("running",)) if run.host == machine and run.pid is not None
        ]

    with ledger, Fleet(shared.home.path) as fleet:
        fleet.start("near", "work", "--others", "2", FORECAST_MACHINE=NEAR)
        wait_for(lambda: len(on(NEAR)) == 2, "the first machine to be full")
        fleet.start("far", "work", "--others", "5", FORECAST_MACHINE=FAR)
        fleet.start("schedule")
        wait_for(lambda: len(on(FAR)) == 2, "the second machine to take the others")
        assert sorted(on(NEAR) + on(FAR)) == blocked

        left = on(NEAR)
        workers = {ledger.runs.get(run_id).pid for run_id in left}
        fleet.kill("near")
        assert all(kill(worker) for worker in fleet.workers() if worker.pid in workers)
        wait_for(
            lambda: all(ledger.runs.get(run_id).attempt == 2 for run_id in left), "a new attempt", GIVEN_UP_SECONDS
        )
        assert {ledger.runs.get(run_id).host for run_id in left} == {FAR}
        message = [ledger.runs.attempts(run_id)[0] for run_id in left]
        assert {attempt.outcome for attempt in message} == {"abandoned"}
        assert all("sent no heartbeat" in (attempt.reason or "") for attempt in message)

        quick = [book.run_now(QUICK) for _ in range(3)]
        wait_for(lambda: all(ledger.runs.get(run_id).state == "succeeded" for run_id in quick), "what is quick")
        for run_id in blocked:
            ledger.runs.cancel(run_id, SystemClock().now())
        wait_for(lambda: all(ledger.runs.get(run_id).has_ended for run_id in blocked), "the cancelled ones")
        assert len(all_runs(ledger)) == len(blocked) + len(quick)
        assert not list(wrong_ends(ledger))
