"""Runs in the ledger: a date is claimed once, taken by one worker at a time, and ends once.

``queued`` -> ``running`` -> ``succeeded``, ``failed`` or ``cancelled``; a date that was missed is ``coalesced`` into a
later one. An attempt that dies, or fails and may be tried again, puts its run back into the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.config.jobs import CatchUp, Cause, Due, Job, Weight
from forecast.errors import ConflictError, NotFoundError
from forecast.ledger.database import Database, insert_into
from forecast.ledger.events import publish, publish_run
from forecast.ledger.run import Attempt, Outcome, Run
from forecast.ledger.tables import (
    ATTEMPTS,
    RUNS,
)

_COALESCING = (Cause.CRON, Cause.DATA, Cause.WATERMARK, Cause.DRIFT, Cause.REGRESSION)


class Runs:
    """Runs of jobs: a date is claimed once, taken by one worker at a time, and ends once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, job: str, definition: Job, dates: Sequence[Due], now: datetime) -> list[int]:
        """Claim dates of a job that were not claimed before; returns the runs that wait for a worker, in order.

        Unless the job runs each of its dates, or they were requested by hand, the latest is queued. The others,
        and runs that still wait for a first attempt, are coalesced into it.
        """
        if not dates:
            return []
        row = {
            "job": job, "dataset": definition.dataset, "kind": str(definition.weight), "state": "queued",
            "claimed_at": now, "document": definition.model_dump_json(exclude_defaults=True),
        }  # fmt: skip
        rows = [
            row | {"logical_date": date.logical_date, "due_at": date.at, "cause": str(date.cause)} for date in dates
        ]
        with self._database.in_turn() as connection:
            statement = insert_into(connection, RUNS).on_conflict_do_nothing().returning(RUNS.c.run_id)
            claimed = sorted(connection.execute(statement, rows).scalars())
            if not claimed:
                return []
            waiting = claimed
            if dates[-1].cause in _COALESCING and definition.catch_up == CatchUp.LATEST:
                waiting = claimed[-1:]
                _coalesce(connection, job, waiting[0], now)
            for run_id in waiting:
                publish_run(connection, run_id, definition.dataset, now, "queued")
        return waiting

    def take(self, machine: str, now: datetime, *, trainings: int, others: int) -> Run | None:
        """Take the next run of the queue for a worker on this machine; ``None`` if none may start.

        A machine has places for trainings and for other runs. At most one run of a job is running anywhere.
        """
        with self._database.in_turn() as connection:
            counted = connection.execute(
                sa.select(RUNS.c.kind, sa.func.count())
                .where(RUNS.c.state == "running", RUNS.c.host == machine)
                .group_by(RUNS.c.kind)
            )
            counts: dict[str, int] = {row[0]: row[1] for row in counted}
            free = {
                str(Weight.TRAINING): trainings - counts.get(str(Weight.TRAINING), 0),
                str(Weight.LIGHT): others - sum(count for kind, count in counts.items() if kind != Weight.TRAINING),
            }
            kinds = [kind for kind, places in free.items() if places > 0]
            busy = sa.select(RUNS.c.job).where(RUNS.c.state == "running")
            found = connection.execute(
                sa.select(RUNS.c.run_id, RUNS.c.attempt, RUNS.c.dataset)
                .where(
                    RUNS.c.state == "queued", RUNS.c.kind.in_(kinds), RUNS.c.job.not_in(busy),
                    sa.or_(RUNS.c.not_before.is_(None), RUNS.c.not_before <= now),
                )
                .order_by(RUNS.c.run_id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()  # fmt: skip
            if found is None:
                return None
            run_id, attempt, dataset = found
            connection.execute(
                sa.update(RUNS)
                .where(RUNS.c.run_id == run_id)
                .values(
                    state="running", host=machine, attempt=attempt + 1, started_at=now, heartbeat_at=now, pid=None,
                    progress=None, doing=None, not_before=None,
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(ATTEMPTS).values(run_id=run_id, number=attempt + 1, host=machine, started_at=now)
            )
            publish_run(connection, run_id, dataset, now, "running")
            return _run(connection.execute(sa.select(RUNS).where(RUNS.c.run_id == run_id)).mappings().one())

    def started(self, run: Run, pid: int, log: str | None = None) -> None:
        """Record the process of an attempt, and its log if that is known."""
        values = {"pid": pid} | ({} if log is None else {"log": log})
        with self._database.transaction() as connection:
            connection.execute(sa.update(RUNS).where(*_held(run)).values(values))
            connection.execute(sa.update(ATTEMPTS).where(*_attempt(run)).values(pid=pid))

    def beat(
        self, run: Run, now: datetime, progress: float | None = None, doing: str | None = None, *, tell: bool = True
    ) -> bool:
        """Record an attempt's heartbeat and progress; returns whether the attempt still owns the run."""
        with self._database.transaction() as connection:
            values = {"heartbeat_at": now, "progress": progress, "doing": doing}
            held = connection.execute(sa.update(RUNS).where(*_held(run)).values(values)).rowcount > 0
            if held and tell and doing is not None:
                publish(connection, "progress", run.dataset, now, {"progress": progress, "doing": doing}, run.run_id)
        return held

    def note_memory(self, run: Run, megabytes: float) -> None:
        """Record the largest resident memory of a run's processes."""
        with self._database.transaction() as connection:
            connection.execute(sa.update(RUNS).where(*_held(run)).values(peak_memory_mb=megabytes))
            connection.execute(sa.update(ATTEMPTS).where(*_attempt(run)).values(peak_memory_mb=megabytes))

    def link(self, run: Run, **links: str) -> None:
        """Link a run to its ``tracking_run`` in MLflow or its ``forecast_id``."""
        with self._database.transaction() as connection:
            connection.execute(sa.update(RUNS).where(*_held(run)).values(links))

    def finish(self, run: Run, outcome: Outcome, now: datetime, reason: str, *, retry: bool = False) -> str | None:
        """End an attempt; returns the run's new state, or ``None`` if the attempt no longer owns the run.

        With ``retry`` a failed or abandoned run is retried after its job's back-off, as often as the job allows.
        An attempt that is handed back does not count as a retry.
        """
        with self._database.in_turn() as connection:
            row = connection.execute(sa.select(RUNS).where(*_held(run)).with_for_update()).mappings().first()
            if row is None:
                return None
            held = _run(row)
            changes = _after(held, outcome, now, reason, retry=retry)
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run.run_id).values(changes))
            connection.execute(
                sa.update(ATTEMPTS).where(*_attempt(run)).values(ended_at=now, outcome=outcome, reason=reason)
            )
            state = str(changes["state"])
            publish_run(connection, run.run_id, run.dataset, now, state, str(changes["reason"]))
        return state

    def cancel(self, run_id: int, now: datetime) -> Run:
        """Cancel a waiting run, or ask the worker of a running one to stop; raises ``run.ended`` if it has ended."""
        with self._database.in_turn() as connection:
            row = (
                connection.execute(sa.select(RUNS).where(RUNS.c.run_id == run_id).with_for_update()).mappings().first()
            )
            if row is None:
                raise _unknown(run_id)
            run = _run(row)
            if run.has_ended:
                raise ConflictError("run.ended", f"run {run_id} has {run.state} already", "there is nothing to cancel")
            changes: dict[str, Any] = {"cancel_asked_at": now}
            if run.state == "queued":
                changes |= {"state": "cancelled", "ended_at": now, "reason": "cancelled before it began"}
                publish_run(connection, run_id, run.dataset, now, "cancelled", changes["reason"])
            connection.execute(sa.update(RUNS).where(RUNS.c.run_id == run_id).values(changes))
        return self.get(run_id)

    def get(self, run_id: int) -> Run:
        """Return one run."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(RUNS).where(RUNS.c.run_id == run_id)).mappings().first()
        if row is None:
            raise _unknown(run_id)
        return _run(row)

    def find(
        self,
        *,
        dataset: str | None = None,
        job: str | None = None,
        states: Iterable[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Return at most ``limit`` runs, newest first; ``before`` continues after a run that was read."""
        query = sa.select(RUNS).order_by(RUNS.c.run_id.desc()).limit(limit)
        wanted = {RUNS.c.dataset: dataset, RUNS.c.job: job}
        query = query.where(*(column == value for column, value in wanted.items() if value is not None))
        if states:
            query = query.where(RUNS.c.state.in_(tuple(states)))
        if before is not None:
            query = query.where(RUNS.c.run_id < before)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def queue(self, limit: int | None = None) -> list[Run]:
        """Return waiting runs in the order of the queue."""
        query = sa.select(RUNS).where(RUNS.c.state == "queued").order_by(RUNS.c.run_id).limit(limit)
        with self._database.transaction() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def waiting(self, until: int | None = None) -> int:
        """Count the waiting runs, or those up to one of them: that is its position in the queue."""
        query = sa.select(sa.func.count()).select_from(RUNS).where(RUNS.c.state == "queued")
        if until is not None:
            query = query.where(RUNS.c.run_id <= until)
        with self._database.transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def counts(self) -> dict[str, int]:
        """Return the number of runs by state; states without runs are omitted."""
        query = sa.select(RUNS.c.state, sa.func.count()).group_by(RUNS.c.state)  # answered from an index
        with self._database.transaction() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def attempts(self, run_id: int) -> list[Attempt]:
        """Return the attempts at a run, oldest first."""
        query = sa.select(ATTEMPTS).where(ATTEMPTS.c.run_id == run_id).order_by(ATTEMPTS.c.number)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Attempt(**row) for row in rows]

    def last_due(self, job: str, *causes: Cause, until: datetime | None = None) -> datetime | None:
        """Return the latest due time of a job until ``until``, for the given causes or any."""
        query = sa.select(sa.func.max(RUNS.c.due_at, type_=RUNS.c.due_at.type)).where(RUNS.c.job == job)
        if causes:
            query = query.where(RUNS.c.cause.in_([str(cause) for cause in causes]))
        if until is not None:
            query = query.where(RUNS.c.due_at <= until)
        with self._database.transaction() as connection:
            return connection.execute(query).scalar()

    def is_claimed(self, job: str, logical_date: str) -> bool:
        """Whether a date of a job was ever claimed."""
        query = sa.select(RUNS.c.run_id).where(RUNS.c.job == job, RUNS.c.logical_date == logical_date)
        with self._database.transaction() as connection:
            return connection.execute(query).first() is not None

    def failed_jobs(self, dataset: str) -> dict[str, str]:
        """Return the reason by job whose latest finished run failed."""
        latest = (
            sa.select(sa.func.max(RUNS.c.run_id))
            .where(RUNS.c.dataset == dataset, RUNS.c.state.in_(("succeeded", "failed")))
            .group_by(RUNS.c.job)
        )
        query = sa.select(RUNS.c.job, RUNS.c.reason).where(RUNS.c.run_id.in_(latest), RUNS.c.state == "failed")
        with self._database.transaction() as connection:
            return {job: reason or "no reason given" for job, reason in connection.execute(query.order_by(RUNS.c.job))}


def _coalesce(connection: sa.Connection, job: str, into: int, now: datetime) -> None:
    """Coalesce the queued runs of the job into ``into``; runs requested by hand stay queued."""
    others = sa.update(RUNS).where(
        RUNS.c.job == job, RUNS.c.state == "queued", RUNS.c.attempt == 0, RUNS.c.run_id != into,
        RUNS.c.cause.in_([str(cause) for cause in _COALESCING]),
    )  # fmt: skip
    ended = {"state": "coalesced", "coalesced_into": into, "ended_at": now, "reason": f"coalesced into run {into}"}
    connection.execute(others.values(ended))


def _after(run: Run, outcome: Outcome, now: datetime, reason: str, *, retry: bool) -> dict[str, Any]:
    """Return the changes of the run's row when an attempt ends."""
    if outcome == "succeeded":
        return {"state": "succeeded", "ended_at": now, "reason": reason, "progress": 1.0, "doing": None}
    if outcome == "cancelled" or run.cancel_asked_at is not None:
        return {"state": "cancelled", "ended_at": now, "reason": reason}
    waiting = {"state": "queued", "heartbeat_at": None, "progress": None, "doing": None}
    if outcome == "handed_back":
        return waiting | {"reason": reason}
    failures = run.failures + 1
    try:
        definition = run.definition
    except ConflictError:  # no release could execute it
        definition = None
    if retry and definition is not None and failures <= definition.retries:
        not_before = now + definition.wait_after(failures)
        message = f"{reason}; it is tried again"
        return waiting | {"failures": failures, "not_before": not_before, "reason": message}
    return {"state": "failed", "failures": failures, "ended_at": now, "reason": reason}


def _held(run: Run) -> tuple[sa.ColumnElement[bool], ...]:
    return RUNS.c.run_id == run.run_id, RUNS.c.attempt == run.attempt, RUNS.c.state == "running"


def _attempt(run: Run) -> tuple[sa.ColumnElement[bool], ...]:
    return ATTEMPTS.c.run_id == run.run_id, ATTEMPTS.c.number == run.attempt


def _unknown(run_id: int) -> NotFoundError:
    return NotFoundError("run.unknown", f"no run {run_id}", 'see "forecast runs list"')


def _run(row: RowMapping) -> Run:
    return Run(**{name: row[name] for name in Run.__slots__})
