"""Who is at work: scheduler, worker hosts, and runs that nobody sees to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from forecast.clock import SystemClock
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER
from pipelines.doctor.finding import Diagnosis

if TYPE_CHECKING:
    from pipelines.doctor.examine import Patient

_BEATS_SECONDS = 3.0
_SILENT = timedelta(seconds=30)
_WAITED = timedelta(hours=1)


def scheduler(patient: Patient) -> Iterator[Diagnosis]:
    """Watch the lease until its holder counts on, as it does once a second."""
    before = patient.ledger.leases.get(SCHEDULER)
    deadline = time.monotonic() + _BEATS_SECONDS
    now = before
    while now == before and before is not None and time.monotonic() < deadline:
        time.sleep(0.2)
        now = patient.ledger.leases.get(SCHEDULER)
    if before is not None and now != before:
        yield Diagnosis("scheduler", "well", f"{before[0]} holds the lease")
        return
    due = [name for name, job in JobBook(patient.installation).jobs().items() if job.definition.cron and not job.paused]
    if due:
        message = "the scheduler that held the lease is silent" if before is not None else "no scheduler runs"
        remedy = 'start "forecast up", or "forecast schedule"'
        message = f"{message}: {', '.join(due)} will not be run"
        yield Diagnosis("scheduler", "warning", message, "scheduler.none", remedy)
    else:
        yield Diagnosis("scheduler", "well", "none runs, and no job has a schedule")


def worker_hosts(patient: Patient) -> Iterator[Diagnosis]:
    """See that somebody executes what is in the queue."""
    now = SystemClock().now()
    hosts = patient.ledger.hosts.known()
    silent = [host for host in hosts if now - host.heartbeat_at > _SILENT]
    for host in silent:
        seconds = (now - host.heartbeat_at).total_seconds()
        message = f"{host.name} gave no sign of life for {seconds:.0f} s"
        yield Diagnosis(
            "worker hosts", "warning", message, "worker.silent", "look at its machine; its runs go elsewhere"
        )
    alive = [host for host in hosts if host not in silent]
    waiting = patient.ledger.runs.waiting()
    if alive:
        yield Diagnosis("worker hosts", "well", f"{len(alive)} at work, {waiting} runs in the queue")
    elif waiting:
        message = f"{waiting} runs are in the queue, and no worker host is there"
        yield Diagnosis("worker hosts", "fault", message, "worker.none", 'start "forecast up", or "forecast work"')
    else:
        yield Diagnosis("worker hosts", "well", "none at work, nothing in the queue")


def runs(patient: Patient) -> Iterator[Diagnosis]:
    """Find runs that seem to go on and do not, or wait for too long."""
    now = SystemClock().now()
    stuck = 0
    for run in patient.ledger.runs.find(states=("running",), limit=1000):
        last = run.heartbeat_at or run.started_at or run.claimed_at
        if now - last > _SILENT:
            stuck += 1
            message = (
                f"run {run.run_id} of {run.job} on {run.host} gave no sign of life since {last:%Y-%m-%d %H:%M} UTC"
            )
            remedy = f'a scheduler gives it up by itself; start one, or "forecast runs cancel {run.run_id}"'
            yield Diagnosis("runs", "warning", message, "run.stuck", remedy)
    for run in patient.ledger.runs.queue():
        since = max(run.claimed_at, run.not_before or run.claimed_at)
        if now - since > _WAITED:
            stuck += 1
            message = f"run {run.run_id} of {run.job} has waited since {since:%Y-%m-%d %H:%M} UTC"
            yield Diagnosis("runs", "warning", message, "run.waits", 'see "forecast runs queue" for whom it waits')
    if not stuck:
        yield Diagnosis("runs", "well", "none is stuck")
