import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from forecast.config.jobs import Cause, Due, Job
from forecast.installation import Installation
from forecast.ledger.run import Run
from forecast.scheduling.worker_host import TRAINING_NICENESS, WorkerHost

WaitUntil = Callable[..., None]
NOW = datetime(2024, 5, 1, tzinfo=UTC)


def enqueue(installation: Installation, name: str = "refresh", **fields: Any) -> int:
    job = Job.model_validate({"dataset": "tiny", "steps": ["ingest", "forecast"]} | fields)
    now = datetime.now(UTC)
    (run_id,) = installation.ledger.runs.claim(name, job, [Due(logical_date="d", at=NOW, cause=Cause.HAND)], now)
    return run_id


@pytest.fixture
def host(tiny_home: Installation) -> Iterator[WorkerHost]:
    made = WorkerHost(tiny_home)
    yield made
    made.stop()


@pytest.fixture
def stuck(tiny_home: Installation) -> Installation:
    """A home whose source is a pipe: a reader waits for a writer that never comes."""
    source = tiny_home.home.path / "rows.csv"
    source.unlink()
    os.mkfifo(source)
    return tiny_home


@pytest.fixture
def until(host: WorkerHost, tiny_home: Installation, wait_until: WaitUntil) -> Callable[..., Run]:
    """Let the host beat until a run is in one of some states, and its worker has begun where it is running."""

    def wait(run_id: int, *states: str, seconds: float = 60) -> Run:
        def is_so() -> bool:
            host.beat()
            run = tiny_home.ledger.runs.get(run_id)
            return run.state in states and (run.state != "running" or reads_or_waits(run))

        wait_until(is_so, seconds)
        return tiny_home.ledger.runs.get(run_id)

    return wait


def reads_or_waits(run: Run) -> bool:
    """Whether the worker is past its imports: its first sign of life is later than its start."""
    return run.heartbeat_at is not None and run.started_at is not None and run.heartbeat_at > run.started_at


def test_a_run_is_executed_in_a_process_of_its_own_with_a_log_and_links(
    tiny_home: Installation, until: Callable[..., Run], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    tiny_rows(401).write_csv(tiny_home.home.path / "rows.csv")
    run = until(enqueue(tiny_home), "succeeded", "failed", "queued")
    assert run.state == "succeeded", run.reason
    issuance = tiny_home.ledger.issuances.latest("tiny")
    assert issuance is not None
    assert run.reason == f"2 new and 800 changed rows; forecast {issuance.forecast_id} issued"
    assert run.forecast_id == issuance.forecast_id
    assert run.log is not None
    assert str(run.reason) in Path(run.log).read_text(encoding="utf-8")
    (attempt,) = tiny_home.ledger.runs.attempts(run.run_id)
    assert (attempt.outcome, attempt.pid != os.getpid()) == ("succeeded", True)


def test_a_worker_that_is_killed_is_tried_again_and_then_given_up(
    stuck: Installation, until: Callable[..., Run]
) -> None:
    run_id = enqueue(stuck, backoff="1s")
    for attempt in (1, 2):
        run = until(run_id, "running")
        assert run.attempt == attempt
        os.kill(run.pid or 0, signal.SIGKILL)
        run = until(run_id, "queued", "failed")
    assert (run.state, run.failures) == ("failed", 2)
    assert run.reason == "its worker died with exit code -9"


def test_a_run_that_takes_too_long_is_ended(stuck: Installation, until: Callable[..., Run]) -> None:
    run = until(enqueue(stuck, time_limit="3s", retries=0), "failed")
    assert str(run.reason).startswith("[run.timed_out] ")
    assert not psutil.pid_exists(run.pid or 0)


def test_a_run_that_takes_too_much_memory_is_ended(stuck: Installation, until: Callable[..., Run]) -> None:
    run = until(enqueue(stuck, memory_limit="20MB", retries=0), "failed")
    assert str(run.reason).startswith("[run.out_of_memory] ")
    assert not psutil.pid_exists(run.pid or 0)


def test_a_running_run_is_cancelled(stuck: Installation, until: Callable[..., Run]) -> None:
    run_id = enqueue(stuck)
    pid = until(run_id, "running").pid
    stuck.ledger.runs.cancel(run_id, datetime.now(UTC))
    run = until(run_id, "cancelled")
    assert run.reason == "it was cancelled"
    assert not psutil.pid_exists(pid or 0)


def test_a_host_that_is_stopped_hands_its_runs_back(
    stuck: Installation, host: WorkerHost, until: Callable[..., Run]
) -> None:
    run_id = enqueue(stuck, retries=0)
    pid = until(run_id, "running").pid
    host.stop()
    run = stuck.ledger.runs.get(run_id)
    assert (run.state, run.failures) == ("queued", 0)
    assert not psutil.pid_exists(pid or 0)
    assert stuck.ledger.hosts.known() == []


def test_a_worker_outlives_its_host_and_the_next_host_watches_over_it(
    stuck: Installation, host: WorkerHost, until: Callable[..., Run], wait_until: WaitUntil
) -> None:
    run_id = enqueue(stuck)
    command = [sys.executable, "-m", "forecast", "work", "--home", str(stuck.home.path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(
        lambda: stuck.ledger.runs.get(run_id).state == "running" and reads_or_waits(stuck.ledger.runs.get(run_id)), 60
    )
    first.kill()
    first.wait()
    pid = stuck.ledger.runs.get(run_id).pid
    host.beat()
    assert psutil.pid_exists(pid or 0)
    assert [held.run.run_id for held in host._held.values()] == [run_id]
    os.kill(pid or 0, signal.SIGKILL)
    run = until(run_id, "queued")
    assert run.failures == 1
    assert len(stuck.ledger.hosts.known()) == 1  # the dead one is struck off


def test_a_run_whose_host_and_worker_both_died_is_tried_again_at_once(
    stuck: Installation, host: WorkerHost, wait_until: WaitUntil
) -> None:
    run_id = enqueue(stuck, backoff="60s")
    command = [sys.executable, "-m", "forecast", "work", "--home", str(stuck.home.path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: stuck.ledger.runs.get(run_id).pid is not None, 60)
    pid = stuck.ledger.runs.get(run_id).pid
    first.kill()
    first.wait()
    os.kill(pid or 0, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid or 0))
    host.beat()
    run = stuck.ledger.runs.get(run_id)
    assert run.state == "queued"
    assert str(run.reason).startswith("its worker died, and its worker host with it")


def test_a_worker_whose_run_was_given_up_elsewhere_is_ended(
    stuck: Installation, host: WorkerHost, until: Callable[..., Run], wait_until: WaitUntil
) -> None:
    run_id = enqueue(stuck, backoff="1h")
    run = until(run_id, "running")
    stuck.ledger.runs.finish(run, "abandoned", datetime.now(UTC), "no sign of life", retry=True)
    wait_until(lambda: host.beat() or not psutil.pid_exists(run.pid or 0))
    assert stuck.ledger.runs.get(run_id).reason == "no sign of life; it is tried again"


def test_a_worker_that_cannot_be_started_leaves_no_run_running(
    tiny_home: Installation, host: WorkerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = enqueue(tiny_home, retries=0)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    host.beat()
    run = tiny_home.ledger.runs.get(run_id)
    assert run.state == "failed"
    assert str(run.reason).startswith("its worker could not be started")


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "fields", "budget"), [(["ingest"], {}, "1"), (["ingest"], {"cores": 3}, "3")])
def test_a_worker_gets_its_budget_of_cores(
    stuck: Installation, until: Callable[..., Run], steps: list[str], fields: dict[str, Any], budget: str
) -> None:
    run = until(enqueue(stuck, steps=steps, **fields), "running")
    environment = psutil.Process(run.pid).environ()
    assert {environment[name] for name in ("FORECAST_CORES", "OMP_NUM_THREADS", "POLARS_MAX_THREADS")} == {budget}


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "niceness"), [(["ingest"], 0), (["ingest", "retrain"], TRAINING_NICENESS)])
def test_a_training_has_a_lower_priority_than_the_service(
    stuck: Installation, until: Callable[..., Run], steps: list[str], niceness: int
) -> None:
    run = until(enqueue(stuck, steps=steps), "running")
    assert psutil.Process(run.pid).nice() == min(psutil.Process().nice() + niceness, 19)
