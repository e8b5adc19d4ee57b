"""All jobs of an installation, from the config file and the ledger, and the operations on them."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from forecast.clock import SystemClock
from forecast.config.jobs import JOB_NAME, Cause, Due, Job, JobStep
from forecast.errors import ConfigError, ConflictError, NotFoundError, nearest
from forecast.installation import Installation
from forecast.ledger.champions import distinct
from forecast.ledger.jobs import JobState, timing_of

_LOG = logging.getLogger(__name__)
_MOST_DATES = 10_000
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job with its origin and its state."""

    name: str
    definition: Job
    origin: Literal["job_file", "ledger"]
    """Where the job is defined; jobs of the config file can only be changed there."""
    paused: bool
    since: datetime | None
    """Start of its dates, on the data set's clock; ``None`` until a scheduler has seen this schedule."""


class JobBook:
    """The jobs of one installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._ledger = installation.ledger

    def jobs(self) -> dict[str, KnownJob]:
        """Return all jobs by name. A job of the config file hides one of the ledger with the same name."""
        states = self._ledger.jobs.states()
        found = {
            name: _known(name, definition, "job_file", states.get(name))
            for name, definition in self._installation.config.jobs.items()
        }
        for name, state in states.items():
            try:
                definition = state.definition
            except ConflictError as error:  # the other jobs stay available
                _LOG.error("%s [%s]", error, error.code)
                continue
            if (
                name not in found
                and definition is not None
                and definition.dataset in self._installation.config.datasets
            ):
                found[name] = _known(name, definition, "ledger", state)
        return found

    def job(self, name: str) -> KnownJob:
        """Return a job; raises ``job.unknown``."""
        jobs = self.jobs()
        if name not in jobs:
            raise NotFoundError("job.unknown", "no job of that name exists", nearest(name, jobs))
        return jobs[name]

    def see(self, known: KnownJob, now: datetime) -> KnownJob:
        """Start the dates of a job from the config file at ``now`` if it is new or its schedule has changed."""
        state = self._ledger.jobs.see(known.name, timing_of(known.definition), now)
        return _known(known.name, known.definition, known.origin, state)

    def add(self, name: str, definition: Job) -> KnownJob:
        """Add a job to the ledger; raises ``job.name``, ``job.exists`` and ``job.no_data_set``."""
        if not re.fullmatch(JOB_NAME, name):
            raise ConfigError("job.name", "job name is invalid", "use lower-case letters, digits, - and _, at most 63")
        self._installation.config.check_job(name, definition)
        if name in self._installation.config.jobs:
            raise ConflictError("job.exists", f'the config file has a job "{name}"', "choose another name")
        self._ledger.jobs.define(name, definition, self._now(definition))
        return self.job(name)

    def change(self, name: str, definition: Job) -> KnownJob:
        """Replace the definition of a job of the ledger; raises ``job.other_data_set`` and ``job.in_job_file``."""
        known = self._from_ledger(name)
        self._installation.config.check_job(name, definition)
        if definition.dataset != known.definition.dataset:  # its dates count on that data set's clock
            raise ConflictError(
                "job.other_data_set", "a job cannot change its data set", "add another job for that data set"
            )
        now = self._now(known.definition)
        self._ledger.jobs.define(name, definition, now, replace=True)
        return self.job(name)

    def remove(self, name: str) -> None:
        """Remove a job of the ledger and cancel its queued runs; other runs stay. Raises ``job.in_job_file``."""
        self._from_ledger(name)
        self._ledger.jobs.delete(name)
        for run in self._ledger.runs.queue():
            if run.job == name:
                with contextlib.suppress(ConflictError):  # a worker may have taken the run meanwhile
                    self._ledger.runs.cancel(run.run_id, SystemClock().now())

    def pause(self, name: str, *, paused: bool) -> KnownJob:
        """Pause or resume a job (including jobs of the config file). Dates missed while paused are not caught up."""
        known = self.job(name)
        now = self._now(known.definition)
        if known.origin == "job_file":
            self.see(known, now)
        self._ledger.jobs.pause(name, now, paused=paused)
        return self.job(name)

    def run_now(self, name: str) -> int:
        """Queue a run of a job regardless of its schedule; returns the run id."""
        return self._ask(name, self.job(name).definition)

    def _ask(self, name: str, definition: Job) -> int:
        now = self._now(definition)
        # Two requests in the same second each get a run.
        date = Due(logical_date=f"hand-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}", at=now, cause=Cause.HAND)
        (run_id,) = self._ledger.runs.claim(name, definition, [date], SystemClock().now())
        return run_id

    def roll_back(self, dataset: str, version: str = "") -> int:
        """Queue a rollback to ``version``, by default the previous champion, and a forecast; returns the run id.

        Raises ``promotion.no_earlier``, ``promotion.is_champion`` and ``model.unknown``.
        """
        versions = [one.model_version for one in distinct(self._ledger.champions.history(dataset, limit=None))]
        if version and version not in versions:
            message = "no champion, present or past, has that version"
            raise NotFoundError("model.unknown", message, nearest(version, versions))
        if not versions or (not version and len(versions) < 2):
            raise NotFoundError("promotion.no_earlier", "the data set has no earlier champion", "train another model")
        if version == versions[0]:
            raise ConflictError("promotion.is_champion", f"{version} is the champion already", "choose another version")
        steps = (JobStep.ROLLBACK, JobStep.FORECAST)
        return self._ask(f"{dataset}.rollback", Job(dataset=dataset, steps=steps, version=version))

    def backfill(self, name: str, first: datetime, last: datetime) -> list[int]:
        """Queue a run for each date in [first, last] that never had one; returns the run ids.

        Raises ``job.no_cron`` for a job without a cron schedule, and ``job.range`` for a range that is reversed,
        reaches into the future or has too many dates.
        """
        known = self.job(name)
        dataset = self._installation.config.datasets[known.definition.dataset]
        cron = known.definition.cron_in(dataset.zone)
        if cron is None:
            raise ConfigError("job.no_cron", f'job "{name}" has no cron schedule', "run it now instead")
        if not _EARLIEST <= first <= last <= self._now(known.definition):
            raise ConfigError(
                "job.range",
                "the range is reversed or reaches into the future",
                "give a start before the end, and an end before now",
            )
        dates = []
        for due in cron.between(first - _MOMENT, last):
            dates.append(Due(logical_date=cron.logical_date(due), at=due, cause=Cause.BACKFILL))
            if len(dates) > _MOST_DATES:
                raise ConfigError("job.range", f"the range has over {_MOST_DATES:,} dates", "give a shorter range")
        return self._ledger.runs.claim(name, known.definition, dates, SystemClock().now())

    def following(self, known: KnownJob) -> datetime | None:
        """Return the next due time of a job's cron schedule, in UTC on its data set's clock; ``None`` without one."""
        cron = known.definition.cron_in(self._installation.config.datasets[known.definition.dataset].zone)
        if cron is None or known.paused:
            return None
        return next(cron.following(self._now(known.definition)), None)

    def _now(self, definition: Job) -> datetime:
        """Return the time on the clock of the job's data set."""
        return self._installation.dataset(definition.dataset).clock.now()

    def _from_ledger(self, name: str) -> KnownJob:
        known = self.job(name)
        if known.origin == "job_file":
            raise ConflictError("job.in_job_file", f'job "{name}" is defined in the config file', "change it there")
        return known


def _known(name: str, definition: Job, origin: Literal["job_file", "ledger"], state: JobState | None) -> KnownJob:
    is_seen = state is not None and state.timing == timing_of(definition)
    return KnownJob(
        name, definition, origin, state is not None and state.paused, state.since if state and is_seen else None
    )
