"""Leases and worker hosts in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from forecast.ledger.database import Database, insert_into
from forecast.ledger.tables import (
    HOSTS,
    LEASES,
)


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


class Leases:
    """Leases: each is held by one process at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, holder: str, seen: int | None) -> int | None:
        """Take a lease that is free or whose beat is still ``seen``; returns the new beat if it was taken."""
        with self._database.in_turn() as connection:
            if seen is None:
                statement = (
                    insert_into(connection, LEASES).values(name=name, holder=holder, beat=1).on_conflict_do_nothing()
                )
                return connection.execute(statement.returning(LEASES.c.beat)).scalar()
            return self._move(connection, name, holder, LEASES.c.beat == seen)

    def renew(self, name: str, holder: str) -> int | None:
        """Count a lease's beat up; ``None`` if another holds it now."""
        with self._database.transaction() as connection:
            return self._move(connection, name, holder, LEASES.c.holder == holder)

    def get(self, name: str) -> tuple[str, int] | None:
        """Return holder and beat of a lease; ``None`` if it is free."""
        with self._database.transaction() as connection:
            query = sa.select(LEASES.c.holder, LEASES.c.beat).where(LEASES.c.name == name)
            row = connection.execute(query).first()
        return None if row is None else (row[0], row[1])

    def release(self, name: str, holder: str) -> None:
        """Release a lease, so that another process need not wait."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder))

    @staticmethod
    def _move(connection: sa.Connection, name: str, holder: str, condition: sa.ColumnElement[bool]) -> int | None:
        statement = sa.update(LEASES).where(LEASES.c.name == name, condition)
        return connection.execute(
            statement.values(holder=holder, beat=LEASES.c.beat + 1).returning(LEASES.c.beat)
        ).scalar()


class Hosts:
    """Worker hosts and their heartbeats."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, host: Host) -> None:
        """Record a worker host's heartbeat."""
        row = {name: getattr(host, name) for name in Host.__slots__}
        with self._database.in_turn() as connection:
            statement = insert_into(connection, HOSTS).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    def remove(self, name: str) -> None:
        """Remove a worker host that ended."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(HOSTS).where(HOSTS.c.name == name))

    def known(self) -> list[Host]:
        """Return the worker hosts that have sent a heartbeat and were not removed."""
        with self._database.transaction() as connection:
            return [Host(**row) for row in connection.execute(sa.select(HOSTS).order_by(HOSTS.c.name)).mappings()]
