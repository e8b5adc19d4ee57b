"""The scheduler: once a second it sees which logical dates are due, claims each once, and starts a worker for it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from filelock import FileLock, Timeout

from forecast.clock import Clock, SystemClock
from forecast.cron import cron_trigger
from forecast.errors import ConflictError, ForecastError
from forecast.installation import Installation, replay_start
from forecast.leash import leashed

_LOG = logging.getLogger(__name__)
_LONGEST_TICK = timedelta(seconds=5)
"""A replay moves on by at most this much real time at once: a suspended laptop does not skip a week."""

_INSTANT = timedelta(microseconds=1)

KINDS = ("refresh", "retrain", "maintain")


def latest_due(trigger: CronTrigger, after: datetime, now: datetime) -> datetime | None:
    """Return the latest time of a cron schedule in (after, now]: however many were missed, they become one.

    >>> hourly = cron_trigger("0 * * * *", "UTC")
    >>> latest_due(hourly, datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 3, 7, 5, tzinfo=UTC)).isoformat()
    '2013-01-03T07:00:00+00:00'
    """
    window = timedelta(minutes=2)
    while True:
        begin = max(after, now - window)
        found = None
        fire = trigger.get_next_fire_time(None, begin + _INSTANT)
        while fire is not None and fire <= now:
            found = fire
            # In UTC: of an hour that autumn doubles, the local sum would come back to the first half for ever.
            fire = trigger.get_next_fire_time(None, fire.astimezone(UTC) + _INSTANT)
        if found is not None or begin == after:
            return found
        window *= 2


@dataclass(slots=True)
class _Worker:
    run_id: int
    process: subprocess.Popen[bytes]


class Scheduler:
    """Fires the schedules of one installation; APScheduler keeps the beat, the ledger keeps the truth."""

    BEAT_SECONDS: ClassVar[float] = 1.0

    def __init__(self, installation: Installation, clock: Clock | None = None) -> None:
        self._installation = installation
        self._clock = clock or SystemClock()
        self._began = self._clock.now()
        self._last_tick = self._began
        self._workers: dict[str, _Worker] = {}
        """By kind: at most one training and one light run at a time."""

    def run(self) -> None:
        """Beat until interrupted; a second scheduler of the same home is refused."""
        with only_one(self._installation.home.locks / "scheduler.lock"):
            for run in self._installation.ledger.runs(states=("running",)):
                self._installation.ledger.end(
                    run.run_id, "abandoned", self._clock.now(), "the scheduler that started it is gone"
                )
            beat = BackgroundScheduler(timezone=UTC)
            beat.add_job(
                self.tick,
                IntervalTrigger(seconds=self.BEAT_SECONDS),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
            try:
                with _asked_to_stop() as wait:
                    beat.start()
                    wait()
            finally:
                if beat.running:
                    beat.shutdown(wait=True)  # a tick that still runs could start a worker that nobody stops
                self.stop()

    def tick(self) -> None:
        """Move replays on, see to workers that ended, start what is due; trouble with one data set stays with it."""
        try:
            self._move_replays()
            self._reap()
        except ForecastError as error:
            _LOG.error("%s [%s]", error, error.code)  # one line a beat, not a traceback
        for dataset in self._installation.jobs.datasets:
            for kind in KINDS:
                try:
                    self._start_if_due(dataset, kind)
                except ForecastError as error:
                    _LOG.error("%s: %s [%s]", dataset, error, error.code)

    def stop(self) -> None:
        """Stop the workers that still run; their logical dates are marked abandoned."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            self._installation.ledger.end(worker.run_id, "abandoned", self._clock.now(), "the scheduler was stopped")
        self._workers.clear()

    def _move_replays(self) -> None:
        now = self._clock.now()
        # Not below zero: a machine's clock may be set back, a replay never goes back.
        elapsed = min(max(now - self._last_tick, timedelta()), _LONGEST_TICK)
        self._last_tick = now
        for dataset, job in self._installation.jobs.datasets.items():
            start = replay_start(job)
            if job.replay is not None and start is not None:
                position = self._installation.ledger.clock(dataset, start)
                self._installation.ledger.move_clock(dataset, position + elapsed * job.replay.speed)

    def _reap(self) -> None:
        for kind, worker in list(self._workers.items()):
            code = worker.process.poll()
            if code is not None:
                del self._workers[kind]
                # A worker that could still write has ended its run itself; then this changes nothing.
                self._installation.ledger.end(
                    worker.run_id, "abandoned", self._clock.now(), f"the worker died with exit code {code}"
                )

    def _start_if_due(self, dataset: str, kind: str) -> None:
        job = self._installation.jobs.datasets[dataset]
        cron = getattr(job.schedule, kind)
        if not cron or kind in self._workers:
            return
        name = f"{dataset}/{kind}"
        now = self._installation.clock(dataset).now()
        last = self._installation.ledger.last_logical_date(name)
        after = _latest_instant(last, job.schedule_tz) if last else replay_start(job) or self._began
        due = latest_due(cron_trigger(cron, job.schedule_tz), after, now)
        if due is None:
            return
        logical_date = due.astimezone(job.schedule_tz).replace(tzinfo=None).isoformat(timespec="minutes")
        run_id = self._installation.ledger.claim(name, dataset, kind, logical_date, self._clock.now())
        if run_id is None:
            return
        _LOG.info("%s for %s starts as run %d", name, logical_date, run_id)
        try:
            self._workers[kind] = _Worker(run_id, start_worker(self._installation, run_id))
        except OSError as error:
            reason = f"its worker could not be started ({error})"
            self._installation.ledger.end(run_id, "failed", self._clock.now(), reason)
            _LOG.error("run %d: %s", run_id, reason)  # one line a run, not a traceback


def start_worker(installation: Installation, run_id: int) -> subprocess.Popen[bytes]:
    """Start the process that executes a claimed run; what it says goes to the home's ``logs``."""
    log = installation.home.logs / f"run-{run_id}.log"
    command = [sys.executable, "-m", "forecast", "worker", str(run_id), "--home", str(installation.home.path)]
    with log.open("ab") as stream:
        return subprocess.Popen(leashed(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)


def _latest_instant(logical_date: str, zone: ZoneInfo) -> datetime:
    """Return the last instant that a wall time can stand for, so that its logical date is not due a second time.

    Of an hour that autumn doubles that is the later one (fold=1); of an hour that spring skips, fold=0.
    """
    wall = datetime.fromisoformat(logical_date).replace(tzinfo=zone)
    return max(wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC))


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], None]]:
    """Give a function that waits for SIGINT or SIGTERM.

    A signal only writes a byte: an exception raised from its handler could leave a lock of APScheduler's held for ever.
    """
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    wakeup = signal.set_wakeup_fd(telling)
    try:
        yield lambda: _read_a_byte(told)
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)
        os.close(told)
        os.close(telling)


def _read_a_byte(descriptor: int) -> None:
    os.read(descriptor, 1)


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock file while the body runs; raises ``scheduler.running`` if another process holds it."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ConflictError(
            "scheduler.running", f"a scheduler already runs for this home ({lock})", "stop it first"
        ) from error
    try:
        yield
    finally:
        held.release()
