"""The database behind the ledger: opening, migration, and transactions that translate SQL errors."""

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
from forecast.ledger.migrations import migrate
from forecast.ledger.tables import RUNS

_BUSY_SECONDS = 10
_LOCK = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7082024)"}


class Database:
    """The SQL database behind the ledger: its transactions, and the run attempt that may write through this object."""

    def __init__(self, engine: Engine, owner: tuple[int, int] | None = None) -> None:
        self._engine = engine
        self._owner = owner
        """Run and attempt: only while this attempt owns the run may this object promote and issue."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger; create the tables of a new one, migrate those of an older one.

        Raises ``ledger.failed`` if the database cannot be opened or written, and ``ledger.other_version`` if a later
        release made it.
        """
        with translated_errors():
            try:
                engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
            except (ImportError, ValueError) as error:
                message = f"FORECAST_LEDGER_URL cannot be used ({error})"
                raise StorageError(
                    "ledger.failed", message, "correct the URL and install the database's driver"
                ) from error
            if engine.dialect.name not in _LOCK:
                raise StorageError(
                    "ledger.failed",
                    f"the database {engine.dialect.name} is not supported for the ledger",
                    "use SQLite or PostgreSQL",
                )
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _set_up_sqlite)
        ledger = cls(engine)
        try:
            ledger._migrate()
        except StorageError:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    def owned_by(self, run_id: int, attempt: int) -> Self:
        """Return this database for one attempt at a run; it refuses to promote or issue once another attempt owns it.

        A worker that was frozen, abandoned and replaced must change nothing when it wakes.
        """
        return type(self)(self._engine, (run_id, attempt))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _migrate(self) -> None:
        with self.in_turn() as connection:
            # Of several processes that open the ledger at once, one migrates it and the others wait.
            migrate(connection)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Begin a transaction; database errors become ``ledger.failed``."""
        with translated_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def in_turn(self) -> Iterator[sa.Connection]:
        """Begin a transaction under the ledger's lock: its reads are still true when it writes."""
        with self.transaction() as connection:
            connection.exec_driver_sql(_LOCK[connection.dialect.name])
            yield connection

    @contextmanager
    def as_owner(self) -> Iterator[sa.Connection]:
        """Begin a transaction; raise ``run.not_owned`` if this object's attempt no longer owns its run."""
        with self.transaction() as connection:
            if self._owner is not None:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql(_LOCK["sqlite"])
                run_id, attempt = self._owner
                held = sa.select(RUNS.c.run_id).where(
                    RUNS.c.run_id == run_id, RUNS.c.attempt == attempt, RUNS.c.state == "running"
                )
                if connection.execute(held.with_for_update()).first() is None:
                    raise ConflictError(
                        "run.not_owned",
                        f"run {run_id} was abandoned and taken by another worker",
                        "wait for that worker to end",
                    )
            yield connection


def insert_into(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that supports ON CONFLICT in the connection's dialect."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Translate database errors into ``ledger.failed``; an ``IntegrityError`` passes, because the caller handles it."""
    try:
        yield
    except sa.exc.IntegrityError:  # a row exists already
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
    # SQLite ignores busy_timeout here: of two connections that open a new database at once, one is refused the switch.
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
