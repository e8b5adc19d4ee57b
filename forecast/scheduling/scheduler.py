"""The scheduler: each second it claims the dates that are due, each exactly once; worker hosts execute them."""

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
"""Maximum real time by which a tick advances a replay, so that a suspended laptop does not skip a week."""


class Scheduler:
    """Queues the due runs of one installation. APScheduler provides the timer, the ledger holds all state.

    Several schedulers may run: one holds the lease, the others wait to take over.
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
        self._watchdog = Watchdog(installation.ledger, monotonic)
        self._triggers = Triggers(installation)
        self._book = JobBook(installation)
        self._last_tick = self._clock.now()
        self._next: dict[str, tuple[KnownJob, datetime, datetime | None]] = {}
        """By job: its last state, the time of that look (on its clock), and its next due time."""
        self._leads: bool | None = None

    def run(self) -> None:
        """Tick once a second until SIGINT or SIGTERM."""
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
            self._lease.release()

    def tick(self) -> None:
        """Renew the lease; as its holder advance replays, give up runs of dead workers, and claim due dates.

        An error in one job does not affect the others.
        """
        try:
            if not self._holds():
                return
            self._move_replays()
            self._watchdog.check(self._clock.now())
            jobs = self._book.jobs()
        except ForecastError as error:
            _LOG.error("%s [%s]", error, error.code)  # one line per tick instead of a traceback
            return
        for known in jobs.values():
            try:
                self._claim_due(known)
            except ForecastError as error:
                self._next.pop(known.name, None)  # its due dates may be unclaimed: the next tick looks again
                _LOG.error("job %s: %s [%s]", known.name, error, error.code)

    def _holds(self) -> bool:
        leads = self._lease.hold()
        if leads != self._leads:
            _LOG.info(
                "%s %s",
                self._name,
                "is the active scheduler now" if leads else "is on standby: another scheduler holds the lease",
            )
            self._last_tick = self._clock.now()
            self._next.clear()
        self._leads = leads
        return leads

    def _move_replays(self) -> None:
        now = self._clock.now()
        # Not below zero: the machine's clock may be set back, but a replay never runs backwards.
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
        dates = [*self._dates(known, now), *self._triggers.due(known, now)]
        for run_id in self._installation.ledger.runs.claim(known.name, known.definition, dates, self._clock.now()):
            _LOG.info("job %s: run %d is queued", known.name, run_id)

    def _dates(self, known: KnownJob, now: datetime) -> list[Due]:
        """Return the due, unclaimed dates of a job's cron schedule."""
        cron = known.definition.cron_in(self._installation.config.datasets[known.definition.dataset].zone)
        if cron is None or known.since is None:
            return []
        before = self._next.get(known.name)
        # The ledger is read only if a date is due, the job has changed, or its clock was set back.
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
