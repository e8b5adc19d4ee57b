"""Checks of the running parts: scheduler, worker hosts, and runs that are stuck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from forecast.clock import SystemClock
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER
from pipelines.doctor.finding import Diagnosis
from pipelines.doctor.subject import Subject

_BEATS_SECONDS = 3.0
_SILENT = timedelta(seconds=30)
_WAITED = timedelta(hours=1)


def scheduler(subject: Subject) -> Iterator[Diagnosis]:
    """Watch the lease until its holder increments the counter, which it does every second."""
    before = subject.ledger.leases.get(SCHEDULER)
    deadline = time.monotonic() + _BEATS_SECONDS
    now = before
    while now == before and before is not None and time.monotonic() < deadline:
        time.sleep(0.2)
        now = subject.ledger.leases.get(SCHEDULER)
    if before is not None and now != before:
        yield Diagnosis("scheduler", "well", f"{before[0]} holds the lease")
        return
    due = [name for name, job in JobBook(subject.installation).jobs().items() if job.definition.cron and not job.paused]
    if due:
        message = "the scheduler that held the lease is silent" if before is not None else "no scheduler is running"
        remedy = 'start "forecast up", or "forecast schedule"'
        message = f"{message}: {', '.join(due)} will not run"
        yield Diagnosis("scheduler", "warning", message, "scheduler.none", remedy)
    else:
        yield Diagnosis("scheduler", "well", "none is running, and no job has a schedule")


def worker_hosts(subject: Subject) -> Iterator[Diagnosis]:
    """Check that a worker host executes the queued runs."""
    now = SystemClock().now()
    hosts = subject.ledger.hosts.known()
    silent = [host for host in hosts if now - host.heartbeat_at > _SILENT]
    for host in silent:
        seconds = (now - host.heartbeat_at).total_seconds()
        message = f"{host.name} has sent no heartbeat for {seconds:.0f} s"
        yield Diagnosis(
            "worker hosts", "warning", message, "worker.silent", "check its machine; other hosts take its runs"
        )
    alive = [host for host in hosts if host not in silent]
    waiting = subject.ledger.runs.waiting()
    if alive:
        yield Diagnosis("worker hosts", "well", f"{len(alive)} alive, {waiting} runs in the queue")
    elif waiting:
        message = f"{waiting} runs are in the queue, but no worker host is alive"
        yield Diagnosis("worker hosts", "fault", message, "worker.none", 'start "forecast up", or "forecast work"')
    else:
        yield Diagnosis("worker hosts", "well", "none alive, nothing in the queue")


def runs(subject: Subject) -> Iterator[Diagnosis]:
    """Find running runs without a heartbeat, and queued runs that wait for too long."""
    now = SystemClock().now()
    stuck = 0
    for run in subject.ledger.runs.find(states=("running",), limit=1000):
        last = run.heartbeat_at or run.started_at or run.claimed_at
        if now - last > _SILENT:
            stuck += 1
            message = (
                f"run {run.run_id} of {run.job} on {run.host} has sent no heartbeat since {last:%Y-%m-%d %H:%M} UTC"
            )
            remedy = f'start a scheduler, which abandons such runs, or run "forecast runs cancel {run.run_id}"'
            yield Diagnosis("runs", "warning", message, "run.stuck", remedy)
    for run in subject.ledger.runs.queue():
        since = max(run.claimed_at, run.not_before or run.claimed_at)
        if now - since > _WAITED:
            stuck += 1
            message = f"run {run.run_id} of {run.job} has waited since {since:%Y-%m-%d %H:%M} UTC"
            yield Diagnosis("runs", "warning", message, "run.waits", 'see "forecast runs queue" for the reason')
    if not stuck:
        yield Diagnosis("runs", "well", "none is stuck")
