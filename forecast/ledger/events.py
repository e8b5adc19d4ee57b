"""The event feed, and how other parts of the ledger publish to it within their transactions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from forecast.ledger.database import Database
from forecast.ledger.tables import (
    EVENTS,
)

_PUBLISH_IN_TURN = "SELECT pg_advisory_xact_lock(7082025)"


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    sequence: int
    at: datetime
    kind: str
    """``run`` (a state), ``progress``, ``forecast``, ``promotion``, ``alert``."""
    dataset: str
    run_id: int | None
    document: Mapping[str, Any]


class Events:
    """The event feed: states and progress of runs, forecasts, promotions and alerts, in order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(
        self, after: int = 0, *, run_id: int | None = None, kinds: Iterable[str] = (), limit: int = 500
    ) -> list[Event]:
        """Return the events after a known one, in order."""
        query = sa.select(EVENTS).where(EVENTS.c.sequence > after).order_by(EVENTS.c.sequence).limit(limit)
        if run_id is not None:
            query = query.where(EVENTS.c.run_id == run_id)
        if kinds:
            query = query.where(EVENTS.c.kind.in_(tuple(kinds)))
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Event(**{**row, "document": json.loads(row["document"])}) for row in rows]

    def last(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        with self._database.transaction() as connection:
            return connection.execute(sa.select(sa.func.max(EVENTS.c.sequence))).scalar() or 0

    def forget(self, before: datetime) -> int:
        """Delete events from before a time; returns their number."""
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(EVENTS).where(EVENTS.c.at < before)).rowcount


def publish(
    connection: sa.Connection,
    kind: str,
    dataset: str,
    now: datetime,
    document: Mapping[str, Any],
    run_id: int | None = None,
) -> None:
    """Write an event within a transaction of the ledger."""
    row = {"at": now, "kind": kind, "dataset": dataset, "run_id": run_id, "document": json.dumps(document)}
    if connection.dialect.name == "postgresql":
        # Without the lock a number could become visible after a larger one, and a follower would skip it. It is taken
        # last in every transaction, so it cannot deadlock.
        connection.exec_driver_sql(_PUBLISH_IN_TURN)
    connection.execute(sa.insert(EVENTS).values(row))


def publish_run(
    connection: sa.Connection, run_id: int, dataset: str, now: datetime, state: str, reason: str | None = None
) -> None:
    """Write the event of a run's new state."""
    publish(connection, "run", dataset, now, {"state": state, "reason": reason}, run_id)
