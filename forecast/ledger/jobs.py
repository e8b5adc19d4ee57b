"""Jobs in the ledger, and who does what only one may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from pydantic import ValidationError

from forecast.config.jobs import Job
from forecast.errors import ConflictError
from forecast.ledger.database import Store, insert_into
from forecast.ledger.tables import HOSTS, JOBS, LEASES


@dataclass(frozen=True, slots=True)
class JobState:
    """What the ledger knows of a job."""

    name: str
    document: str | None
    """Its definition as JSON; ``None`` if it stands in the job file."""
    paused: bool
    since: datetime
    """Dates up to here do not count: the job was not there, or was paused."""
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


@dataclass(frozen=True, slots=True)
class Host:
    """A process that executes runs."""

    name: str
    machine: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    trainings: int
    others: int


class JobLedger(Store):
    """The part of the ledger about jobs."""

    def job_states(self) -> dict[str, JobState]:
        """Return what is known of every job, by name."""
        with self._transaction() as connection:
            return {row["name"]: JobState(**row) for row in connection.execute(sa.select(JOBS)).mappings()}

    def see_job(self, name: str, timing: str, now: datetime) -> JobState:
        """Meet a job of the job file: the first time, and when its schedule has changed, its dates count from now."""
        with self._in_turn() as connection:
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

    def define_job(self, name: str, definition: Job, now: datetime, *, replace: bool = False) -> None:
        """Keep a job that is not in the job file; raises ``job.exists`` unless it may replace the one of that name."""
        document = definition.model_dump_json(exclude_defaults=True)
        values = {"document": document, "since": now, "timing": timing_of(definition)}
        with self._in_turn() as connection:
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

    def pause_job(self, name: str, now: datetime, *, paused: bool) -> None:
        """Pause a job or let it go on; what was due while it was paused is not caught up."""
        with self._transaction() as connection:
            changed = {"paused": paused} if paused else {"paused": paused, "since": now}
            connection.execute(
                sa.update(JOBS).where(JOBS.c.name == name, JOBS.c.paused.is_(other=not paused)).values(changed)
            )

    def delete_job(self, name: str) -> None:
        """Forget a job; its runs stay."""
        with self._transaction() as connection:
            connection.execute(sa.delete(JOBS).where(JOBS.c.name == name))


class LeaseLedger(Store):
    """The part of the ledger about who is at work."""

    def take_lease(self, name: str, holder: str, seen: int | None) -> int | None:
        """Take a lease that nobody has, or whose beat still stands at ``seen``; returns the new beat if it is taken."""
        with self._in_turn() as connection:
            if seen is None:
                statement = (
                    insert_into(connection, LEASES).values(name=name, holder=holder, beat=1).on_conflict_do_nothing()
                )
                return connection.execute(statement.returning(LEASES.c.beat)).scalar()
            return self._move_lease(connection, name, holder, LEASES.c.beat == seen)

    def keep_lease(self, name: str, holder: str) -> int | None:
        """Count a lease's beat up; ``None`` if another holds it now."""
        with self._transaction() as connection:
            return self._move_lease(connection, name, holder, LEASES.c.holder == holder)

    def lease(self, name: str) -> tuple[str, int] | None:
        """Return holder and beat of a lease; ``None`` if nobody has it."""
        with self._transaction() as connection:
            query = sa.select(LEASES.c.holder, LEASES.c.beat).where(LEASES.c.name == name)
            row = connection.execute(query).first()
        return None if row is None else (row[0], row[1])

    def drop_lease(self, name: str, holder: str) -> None:
        """Let a lease go, so that another need not wait."""
        with self._transaction() as connection:
            connection.execute(sa.delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder))

    @staticmethod
    def _move_lease(connection: sa.Connection, name: str, holder: str, condition: sa.ColumnElement[bool]) -> int | None:
        statement = sa.update(LEASES).where(LEASES.c.name == name, condition)
        return connection.execute(
            statement.values(holder=holder, beat=LEASES.c.beat + 1).returning(LEASES.c.beat)
        ).scalar()

    def host_beat(self, host: Host) -> None:
        """Say that a worker host lives."""
        row = {name: getattr(host, name) for name in Host.__slots__}
        with self._in_turn() as connection:
            statement = insert_into(connection, HOSTS).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    def host_gone(self, name: str) -> None:
        """Say that a worker host ended."""
        with self._transaction() as connection:
            connection.execute(sa.delete(HOSTS).where(HOSTS.c.name == name))

    def hosts(self) -> list[Host]:
        """Return the worker hosts that said they live and not that they ended."""
        with self._transaction() as connection:
            return [Host(**row) for row in connection.execute(sa.select(HOSTS).order_by(HOSTS.c.name)).mappings()]


def timing_of(definition: Job) -> str:
    """Return what of a job decides its dates."""
    return f"{definition.cron} {definition.zone}".strip()
