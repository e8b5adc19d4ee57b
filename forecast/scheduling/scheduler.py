"""The scheduler: once a second it sees which dates are due and claims each once; worker hosts execute them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from forecast.clock import Clock, SystemClock
from forecast.config.jobs import Cause, Due
from forecast.errors import ForecastError
from forecast.installation import Installation, replay_start
from forecast.scheduling.job_book import JobBook, KnownJob
from forecast.scheduling.lease import SCHEDULER, Lease
from forecast.scheduling.processes import identity
from forecast.scheduling.signals import asked_to_stop
from forecast.scheduling.triggers import Triggers
from forecast.scheduling.watchdog import Watchdog

_LOG = logging.getLogger(__name__)
_LONGEST_TICK = timedelta(seconds=5)
"""A replay moves on by at most this much real time at once: a suspended laptop does not skip a week."""


class Scheduler:
    """Fires the jobs of one installation; APScheduler keeps the beat, the ledger keeps the truth.

    Any number may run: one holds the lease, the others wait to take over.
    """

    BEAT_SECONDS: ClassVar[float] = 1.0

    def __init__(
        self,
        installation: Installation,
        clock: Clock | None = None,
        *,
        name: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installation = installation
        self._clock = clock or SystemClock()
        self._name = name or identity()
        self._lease = Lease(installation.ledger, SCHEDULER, self._name, monotonic)
        self._vigil = Watchdog(installation.ledger, monotonic)
        self._triggers = Triggers(installation)
        self._book = JobBook(installation)
        self._last_tick = self._clock.now()
        self._next: dict[str, tuple[KnownJob, datetime, datetime | None]] = {}
        """By job: as what it was seen, when (on its clock), and when it is due next."""
        self._leads: bool | None = None

    def run(self) -> None:
        """Beat until SIGINT or SIGTERM."""
        beat = BackgroundScheduler(timezone=UTC)
        beat.add_job(
            self.tick,
            IntervalTrigger(seconds=self.BEAT_SECONDS),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        try:
            with asked_to_stop() as wait:
                beat.start()
                wait(None)
        finally:
            if beat.running:
                beat.shutdown(wait=True)
            self._lease.drop()

    def tick(self) -> None:
        """Hold the lease; with it move replays on, give up dead workers, claim what is due.

        Trouble with one job stays with it.
        """
        try:
            if not self._holds():
                return
            self._move_replays()
            self._vigil.keep(self._clock.now())
            jobs = self._book.jobs()
        except ForecastError as error:
            _LOG.error("%s [%s]", error, error.code)  # one line a beat, not a traceback
            return
        for known in jobs.values():
            try:
                self._claim_due(known)
            except ForecastError as error:
                self._next.pop(known.name, None)  # what was due may not have been claimed: it is looked at again
                _LOG.error("job %s: %s [%s]", known.name, error, error.code)

    def _holds(self) -> bool:
        leads = self._lease.hold()
        if leads != self._leads:
            _LOG.info("%s %s", self._name, "schedules now" if leads else "waits: another scheduler is at work")
            self._last_tick = self._clock.now()
            self._next.clear()
        self._leads = leads
        return leads

    def _move_replays(self) -> None:
        now = self._clock.now()
        # Not below zero: a machine's clock may be set back, a replay never goes back.
        elapsed = min(max(now - self._last_tick, timedelta()), _LONGEST_TICK)
        self._last_tick = now
        for dataset, config in self._installation.config.datasets.items():
            start = replay_start(config)
            if config.replay is not None and start is not None:
                position = self._installation.ledger.clocks.position(dataset, start)
                self._installation.ledger.clocks.move(dataset, position + elapsed * config.replay.speed)

    def _claim_due(self, known: KnownJob) -> None:
        now = self._now(known)
        if known.since is None:
            known = self._book.see(known, now)
        if known.paused:
            self._next.pop(known.name, None)
            return
        dates = [*self._dates(known, now), *self._triggers.asked(known, now)]
        for run_id in self._installation.ledger.runs.claim(known.name, known.definition, dates, self._clock.now()):
            _LOG.info("job %s: run %d is queued", known.name, run_id)

    def _dates(self, known: KnownJob, now: datetime) -> list[Due]:
        """Return the dates of a job's cron schedule that are due and that nobody claimed."""
        cron = known.definition.cron_in(self._installation.config.datasets[known.definition.dataset].zone)
        if cron is None or known.since is None:
            return []
        before = self._next.get(known.name)
        # Looked at anew only when something is due, the job is another one, or its clock was set back.
        if before is not None and before[0] == known and before[1] <= now and (before[2] is None or now < before[2]):
            self._next[known.name] = (known, now, before[2])
            return []
        last = self._installation.ledger.runs.last_due(known.name, Cause.CRON, until=now)
        after = max(known.since, last) if last else known.since
        dates = [Due(logical_date=cron.logical_date(due), at=due, cause=Cause.CRON) for due in cron.between(after, now)]
        self._next[known.name] = (known, now, next(cron.following(max(after, now)), None))
        return dates

    def _now(self, known: KnownJob) -> datetime:
        dataset = known.definition.dataset
        is_replay = self._installation.config.datasets[dataset].replay is not None
        return self._installation.dataset(dataset).clock.now() if is_replay else self._clock.now()
