"""What a run may use is held to, for real: time, memory, cores, and what somebody who cancels it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from forecast.clock import SystemClock
from forecast.installation import Installation
from forecast.ledger.run import Run
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.worker_host import WorkerHost

pytestmark = pytest.mark.timeout(300)
WaitUntil = Callable[..., None]
SLOW = 120.0
"""Seconds that a busy machine may need for what takes two."""


@pytest.fixture
def blocked(make_home: Callable[..., Installation], tiny_document: dict[str, Any]) -> Callable[..., Installation]:
    """Make a home whose source is a named pipe that nobody writes to: who reads it waits for ever."""

    def make(**job: Any) -> Installation:
        fields = {"dataset": "tiny", "steps": ["ingest"], "backoff": "1s", "retries": 0} | job
        installation = make_home(document=tiny_document | {"jobs": {"read": fields}})
        os.mkfifo(installation.home.path / "rows.csv")
        return installation

    return make


@pytest.fixture
def hosts() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start real worker hosts; those that are left at the end, and their workers, are killed."""
    started: list[subprocess.Popen[bytes]] = []
    homes: set[str] = set()

    def start(installation: Installation, **environment: str) -> subprocess.Popen[bytes]:
        home = str(installation.home.path)
        homes.add(home)
        line = [sys.executable, "-m", "forecast", "work", "--home", home]
        log = (installation.home.logs / "work.log").open("ab")
        started.append(subprocess.Popen(line, env={**os.environ, **environment}, stdout=log, stderr=log))
        log.close()
        return started[-1]

    yield start
    for host in started:
        host.kill()
        host.wait()
    for process in psutil.process_iter():
        try:
            if "worker" in (line := process.cmdline()) and homes & set(line):
                process.kill()
        except psutil.Error:
            continue


@pytest.fixture
def here() -> Iterator[Callable[[Installation], WorkerHost]]:
    """Let a worker host work in this process."""
    made: list[tuple[WorkerHost, threading.Event, threading.Thread]] = []

    def start(installation: Installation) -> WorkerHost:
        host, over = WorkerHost(installation), threading.Event()

        def work() -> None:
            while not over.wait(0.2):
                host.beat()

        thread = threading.Thread(target=work)
        thread.start()
        made.append((host, over, thread))
        return host

    yield start
    for host, over, thread in made:
        over.set()
        thread.join()
        host.stop()


def begun(installation: Installation, wait_until: WaitUntil) -> Run:
    """Queue the job's run, and wait until its worker reads the source."""
    run_id = JobBook(installation).run_now("read")
    ledger = installation.ledger
    wait_until(lambda: ledger.runs.get(run_id).doing == "ingest", SLOW)  # which its heartbeat tells
    return ledger.runs.get(run_id)


def ended(installation: Installation, run: Run, wait_until: WaitUntil) -> Run:
    wait_until(lambda: installation.ledger.runs.get(run.run_id).has_ended, SLOW)
    found = installation.ledger.runs.get(run.run_id)
    assert run.pid is not None
    wait_until(lambda: not psutil.pid_exists(run.pid or 0), SLOW)
    return found


@pytest.mark.slow
def test_a_run_that_is_not_done_in_time_is_ended_and_tried_again(
    blocked: Callable[..., Installation], here: Callable[..., WorkerHost], wait_until: WaitUntil
) -> None:
    installation = blocked(time_limit="8s", retries=1)
    here(installation)
    run_id = JobBook(installation).run_now("read")
    wait_until(lambda: installation.ledger.runs.get(run_id).has_ended, SLOW)
    run, attempts = installation.ledger.runs.get(run_id), installation.ledger.runs.attempts(run_id)
    assert (run.state, len(attempts)) == ("failed", 2)
    assert "[run.timed_out] it exceeded its time_limit of 8s" in (run.reason or "")
    assert attempts[0].ended_at is not None
    assert attempts[1].started_at >= attempts[0].ended_at + timedelta(seconds=1)  # its back-off


def test_a_run_that_is_cancelled_ends_and_so_does_its_process(
    blocked: Callable[..., Installation], here: Callable[..., WorkerHost], wait_until: WaitUntil
) -> None:
    installation = blocked(retries=5)
    here(installation)
    run = begun(installation, wait_until)
    installation.ledger.runs.cancel(run.run_id, SystemClock().now())
    found = ended(installation, run, wait_until)
    assert (found.state, found.reason) == ("cancelled", "it was cancelled")


@pytest.mark.slow
def test_a_worker_that_does_not_hear_is_killed_after_its_grace(
    blocked: Callable[..., Installation],
    here: Callable[..., WorkerHost],
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WorkerHost, "GRACE_SECONDS", 2.0)
    installation = blocked()
    here(installation)
    run = begun(installation, wait_until)
    os.kill(run.pid or 0, signal.SIGSTOP)  # SIGTERM waits until it goes on, SIGKILL does not
    installation.ledger.runs.cancel(run.run_id, SystemClock().now())
    assert ended(installation, run, wait_until).state == "cancelled"


def test_a_run_that_uses_too_much_memory_is_ended_and_the_others_go_on(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    here: Callable[..., WorkerHost],
    wait_until: WaitUntil,
) -> None:
    limits = {"retries": 0, "backoff": "1s"}
    jobs = {
        "big": {"dataset": "tiny", "steps": ["ingest"], "memory_limit": "600MB", **limits},
        "small": {"dataset": "tiny", "steps": ["maintain"], "memory_limit": "4GB", **limits},
    }
    installation = make_home(document=tiny_document | {"jobs": jobs})
    with (installation.home.path / "rows.csv").open("w") as stream:
        stream.write("time,site,load,price,wind\n")
        for _ in range(60):
            stream.write("2024-01-01 00:00,east,1.5,2.5,3.5\n" * 100_000)
    here(installation)
    book, ledger = JobBook(installation), installation.ledger
    big, small = book.run_now("big"), book.run_now("small")
    wait_until(lambda: ledger.runs.get(big).has_ended and ledger.runs.get(small).has_ended, SLOW)
    run = ledger.runs.get(big)
    assert run.state == "failed"
    assert "[run.out_of_memory] it used" in (run.reason or "")
    assert (run.peak_memory_mb or 0) > 600
    assert ledger.runs.get(small).state == "succeeded"


def environment_of(pid: int) -> Mapping[str, str]:
    found: dict[str, str] = psutil.Process(pid).environ()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 3])
def test_cores_log_and_process_of_a_run_are_where_they_should_be(
    blocked: Callable[..., Installation], here: Callable[..., WorkerHost], wait_until: WaitUntil, cores: int
) -> None:
    installation = blocked(cores=cores)
    here(installation)
    run = begun(installation, wait_until)
    message = environment_of(run.pid or 0)
    names = ("FORECAST_CORES", "OMP_NUM_THREADS", "POLARS_MAX_THREADS")
    assert {message[name] for name in names} == {str(cores)}
    assert run.log == str(installation.home.logs / f"run-{run.run_id}.log")
    assert Path(run.log).is_file()


@pytest.mark.slow
def test_a_worker_outlives_its_killed_host_and_the_next_one_holds_it_to_its_limits(
    blocked: Callable[..., Installation],
    hosts: Callable[..., subprocess.Popen[bytes]],
    here: Callable[..., WorkerHost],
    wait_until: WaitUntil,
) -> None:
    installation = blocked(retries=3)
    first = hosts(installation)
    run = begun(installation, wait_until)
    first.kill()
    first.wait()
    assert psutil.pid_exists(run.pid or 0)

    here(installation)
    installation.ledger.runs.cancel(run.run_id, SystemClock().now())
    found = ended(installation, run, wait_until)
    assert (found.state, found.attempt, found.pid) == ("cancelled", 1, run.pid)
    assert [host.pid for host in installation.ledger.hosts.known()] == [os.getpid()]


@pytest.mark.slow
def test_a_worker_that_dies_while_there_is_no_host_is_noticed_by_the_next_one(
    blocked: Callable[..., Installation],
    hosts: Callable[..., subprocess.Popen[bytes]],
    here: Callable[..., WorkerHost],
    wait_until: WaitUntil,
) -> None:
    installation = blocked(retries=1)
    first = hosts(installation)
    run = begun(installation, wait_until)
    first.kill()
    first.wait()
    os.kill(run.pid or 0, signal.SIGKILL)
    here(installation)
    wait_until(lambda: installation.ledger.runs.get(run.run_id).attempt == 2, SLOW)
    assert installation.ledger.runs.attempts(run.run_id)[0].outcome == "abandoned"


@pytest.mark.slow
def test_a_host_that_is_stopped_hands_its_run_back_and_the_next_one_goes_on_with_it(
    blocked: Callable[..., Installation],
    hosts: Callable[..., subprocess.Popen[bytes]],
    here: Callable[..., WorkerHost],
    wait_until: WaitUntil,
) -> None:
    installation = blocked(retries=0)
    first = hosts(installation)
    run = begun(installation, wait_until)
    first.terminate()
    assert first.wait(SLOW) == 0
    assert not psutil.pid_exists(run.pid or 0)
    found = installation.ledger.runs.get(run.run_id)
    assert (found.state, found.failures) == ("queued", 0)
    assert installation.ledger.hosts.known() == []

    here(installation)
    wait_until(lambda: installation.ledger.runs.get(run.run_id).doing == "ingest", SLOW)
    assert [attempt.outcome for attempt in installation.ledger.runs.attempts(run.run_id)] == ["handed_back", None]


def test_what_a_killed_worker_started_is_ended_too(
    blocked: Callable[..., Installation], here: Callable[..., WorkerHost], wait_until: WaitUntil
) -> None:
    installation = blocked()
    host = here(installation)
    script = "import subprocess, time; subprocess.Popen(['sleep', '1000']); time.sleep(1000)"
    host._start = _starting(installation, script)  # type: ignore[method-assign]
    run_id = JobBook(installation).run_now("read")
    wait_until(lambda: installation.ledger.runs.get(run_id).pid is not None, SLOW)
    worker = psutil.Process(installation.ledger.runs.get(run_id).pid or 0)
    wait_until(worker.children, SLOW)
    (child,) = worker.children()
    worker.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, SLOW)
    wait_until(lambda: installation.ledger.runs.get(run_id).has_ended, SLOW)
    assert installation.ledger.runs.get(run_id).reason == "its worker died with exit code -9"


def _starting(installation: Installation, script: str) -> Callable[[Run], subprocess.Popen[bytes]]:
    """Return what starts a script in the worker's place, as a host starts a worker."""

    def start(run: Run) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        installation.ledger.runs.started(run, child.pid)
        return child

    return start
