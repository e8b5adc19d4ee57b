"""The database behind the ledger: opened, brought up to date, and used in transactions whose errors are told."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine

from forecast.errors import ConflictError, StorageError, first_line
from forecast.ledger.tables import METADATA, MIGRATIONS, RUNS, SCHEMA, SCHEMA_VERSION

_BUSY_SECONDS = 10
_TAKE_TURNS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7082024)"}


class Store:
    """Operational state in one SQL database; every public method of a subclass is one transaction."""

    def __init__(self, engine: Engine, owner: tuple[int, int] | None = None) -> None:
        self._engine = engine
        self._owner = owner
        """Run and attempt that alone may promote and issue through this object."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger, making its tables if they are missing.

        Raises ``ledger.failed`` if the database cannot be opened or written, and ``ledger.other_version`` if another
        release made it.
        """
        with told_errors():
            try:
                engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            except (ImportError, ValueError) as error:
                message = f"FORECAST_LEDGER_URL cannot be used ({error})"
                raise StorageError("ledger.failed", message, "mend it, and install the database's driver") from error
            if engine.dialect.name not in _TAKE_TURNS:
                raise StorageError(
                    "ledger.failed", f"the ledger cannot lie in {engine.dialect.name}", "use SQLite or PostgreSQL"
                )
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _set_up_sqlite)
        ledger = cls(engine)
        try:
            ledger._make_tables()
        except StorageError:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    def owned_by(self, run_id: int, attempt: int) -> Self:
        """Return this ledger for one attempt at a run: it refuses to promote or issue once the run is another's.

        A worker that was frozen, given up and replaced must change nothing when it wakes.
        """
        return type(self)(self._engine, (run_id, attempt))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_tables(self) -> None:
        with self._in_turn() as connection:
            # Of several first openings at once, one makes the tables and the others find them.
            METADATA.create_all(connection)
            found = connection.execute(sa.select(SCHEMA.c.version)).scalar()
            if found is None:
                connection.execute(sa.insert(SCHEMA).values(version=SCHEMA_VERSION))
            elif found > SCHEMA_VERSION:
                raise StorageError(
                    "ledger.other_version",
                    f"the ledger was made by a later release (schema {found}, this one has {SCHEMA_VERSION})",
                    "use that release, or a new home",
                )
            elif found < SCHEMA_VERSION:
                for version in range(found, SCHEMA_VERSION):
                    for statement in MIGRATIONS[version]:
                        connection.exec_driver_sql(statement)
                connection.execute(sa.update(SCHEMA).values(version=SCHEMA_VERSION))

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with told_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _in_turn(self) -> Iterator[sa.Connection]:
        """Begin a transaction that no other of its kind overlaps: what it reads is still so when it writes."""
        with self._transaction() as connection:
            connection.exec_driver_sql(_TAKE_TURNS[connection.dialect.name])
            yield connection

    @contextmanager
    def _as_owner(self) -> Iterator[sa.Connection]:
        """Begin a transaction that only the run's present attempt may make, if this ledger belongs to one."""
        with self._transaction() as connection:
            if self._owner is not None:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql(_TAKE_TURNS["sqlite"])
                run_id, attempt = self._owner
                held = sa.select(RUNS.c.run_id).where(
                    RUNS.c.run_id == run_id, RUNS.c.attempt == attempt, RUNS.c.state == "running"
                )
                if connection.execute(held.with_for_update()).first() is None:
                    raise ConflictError(
                        "run.not_owned", f"run {run_id} was given up and taken by another worker", "let that one end"
                    )
            yield connection


def insert_into(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insertion that can say what to do about a row that is there already."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


@contextmanager
def told_errors() -> Iterator[None]:
    """Turn what the database raises into ``ledger.failed``."""
    try:
        yield
    except sa.exc.IntegrityError:  # says that a row exists already: the caller's business
        raise
    except sa.exc.SQLAlchemyError as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise StorageError(
            "ledger.failed", f"the ledger cannot be used ({reason})", "check FORECAST_LEDGER_URL and the disk"
        ) from error


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
    _switch_to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    # Of two that open a new database at once SQLite refuses one the switch, whatever busy_timeout says.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
