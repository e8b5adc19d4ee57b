"""Definitions and states of jobs in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from pydantic import ValidationError

from forecast.config.jobs import Job
from forecast.errors import ConflictError
from forecast.ledger.database import Database
from forecast.ledger.tables import (
    JOBS,
)


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job in the ledger."""

    name: str
    document: str | None
    """Its definition as JSON; ``None`` if the config file defines it."""
    paused: bool
    since: datetime
    """Dates up to here do not count: the job did not exist, or was paused."""
    timing: str
    """Cron and zone that ``since`` was set for."""

    @property
    def definition(self) -> Job | None:
        """The job, if the ledger is where it is defined; raises ``job.outdated``."""
        if self.document is None:
            return None
        try:
            return Job.model_validate_json(self.document)
        except ValidationError as error:
            message = f'the job "{self.name}" was added by another release, whose jobs this one cannot read'
            raise ConflictError("job.outdated", message, "remove it from the ledger and add it anew") from error


class Jobs:
    """Definitions and states of jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self) -> dict[str, JobState]:
        """Return the state of every job by name."""
        with self._database.transaction() as connection:
            return {row["name"]: JobState(**row) for row in connection.execute(sa.select(JOBS)).mappings()}

    def see(self, name: str, timing: str, now: datetime) -> JobState:
        """Record a job of the config file. If it is new or its schedule has changed, its dates count from now."""
        with self._database.in_turn() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.name == name)).mappings().first()
            if row is not None and row["timing"] == timing:
                return JobState(**row)
            values = {"name": name, "document": None, "paused": False, "since": now, "timing": timing}
            if row is None:
                connection.execute(sa.insert(JOBS).values(values))
                return JobState(**values)  # type: ignore[arg-type]
            changed = {"since": now, "timing": timing}
            connection.execute(sa.update(JOBS).where(JOBS.c.name == name).values(changed))
            return JobState(**{**row, **changed})

    def define(self, name: str, definition: Job, now: datetime, *, replace: bool = False) -> None:
        """Store a job that the config file does not define; raises ``job.exists`` unless ``replace`` is set."""
        document = definition.model_dump_json(exclude_defaults=True)
        values = {"document": document, "since": now, "timing": timing_of(definition)}
        with self._database.in_turn() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.name == name)).mappings().first()
            if row is None or row["document"] is None:
                connection.execute(sa.delete(JOBS).where(JOBS.c.name == name))
                connection.execute(sa.insert(JOBS).values(name=name, paused=False, **values))
                return
            if not replace:
                raise ConflictError("job.exists", f'there is a job "{name}"', "choose another name, or change that one")
            if row["timing"] == values["timing"]:
                del values["since"]
            connection.execute(sa.update(JOBS).where(JOBS.c.name == name).values(values))

    def pause(self, name: str, now: datetime, *, paused: bool) -> None:
        """Pause or resume a job. Dates missed while paused are not caught up."""
        with self._database.transaction() as connection:
            changed = {"paused": paused} if paused else {"paused": paused, "since": now}
            connection.execute(
                sa.update(JOBS).where(JOBS.c.name == name, JOBS.c.paused.is_(other=not paused)).values(changed)
            )

    def delete(self, name: str) -> None:
        """Delete a job; its runs stay."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(JOBS).where(JOBS.c.name == name))


def timing_of(definition: Job) -> str:
    """Return the part of a job that decides its dates."""
    return f"{definition.cron} {definition.zone}".strip()
