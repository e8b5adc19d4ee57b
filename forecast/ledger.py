"""The ledger: runs, champions and issued forecasts, where "exactly once" matters."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine, RowMapping

from forecast.errors import NotFoundError, StorageError, first_line
from forecast.ledger_tables import (
    CHAMPIONS,
    CLOCKS,
    ISSUANCES,
    METADATA,
    MIGRATIONS,
    NIGHTS,
    RECEIPTS,
    RUNS,
    SCHEMA,
    SCHEMA_VERSION,
    UtcTime,
)
from forecast.nights import Night
from forecast.receipts import Receipt

_BUSY_SECONDS = 10
_LAST_ROWS = timedelta(hours=6)  # rows of a replay come up to three hours late
_TAKE_TURNS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7082024)"}


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that a data set's forecasts are issued with."""

    dataset: str
    model_name: str
    model_version: str
    folder: str
    digest: str
    promoted_at: datetime
    verdict: str


@dataclass(frozen=True, slots=True)
class Issuance:
    """One forecast of all series and channels of a data set, as it was issued."""

    forecast_id: str
    dataset: str
    issued_at: datetime
    """On the data set's clock."""
    origin: datetime
    """Time of the first forecast step."""
    horizon: int
    quantiles: tuple[float, ...]
    data_version: int
    """Version of the lake's table that the forecast was computed from."""
    model_name: str
    model_version: str
    model_folder: str
    imputed_fraction: float
    """Share of the look-back's values that were filled, not observed."""
    recorded_at: datetime
    """On the machine's clock."""
    newest_observed: datetime | None = None
    """Time of the newest target value that was really observed, of the series and target that are furthest behind."""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job for one logical date."""

    run_id: int
    job: str
    dataset: str
    kind: str
    logical_date: str
    state: str
    claimed_at: datetime
    ended_at: datetime | None
    reason: str | None


class Ledger:
    """Operational state in one SQL database; every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger, making its tables if they are missing.

        Raises ``ledger.failed`` if the database cannot be opened or written, and ``ledger.other_version`` if another
        release made it.
        """
        with _told_errors():
            try:
                engine = sa.create_engine(url)
            except (ImportError, ValueError) as error:
                told = f"FORECAST_LEDGER_URL cannot be used ({error})"
                raise StorageError("ledger.failed", told, "mend it, and install the database's driver") from error
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_tables(self) -> None:
        with self._transaction() as connection:
            # Of several first openings at once, one makes the tables and the others find them.
            connection.exec_driver_sql(_TAKE_TURNS[connection.dialect.name])
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
        with _told_errors(), self._engine.begin() as connection:
            yield connection

    # --- runs -------------------------------------------------------------------------------------------------------

    def claim(self, job: str, dataset: str, kind: str, logical_date: str, now: datetime) -> int | None:
        """Claim one logical date of a job; ``None`` if it was claimed before, by whomever."""
        row = {
            "job": job, "dataset": dataset, "kind": kind, "logical_date": logical_date, "state": "running",
            "claimed_at": now,
        }  # fmt: skip
        try:
            with self._transaction() as connection:
                return int(connection.execute(sa.insert(RUNS).values(row).returning(RUNS.c.run_id)).scalar_one())
        except sa.exc.IntegrityError:
            return None

    def end(self, run_id: int, state: str, now: datetime, reason: str | None = None) -> None:
        """Write how a run ended: ``succeeded``, ``failed`` or ``abandoned``, with the reason."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(RUNS)
                .where(RUNS.c.run_id == run_id, RUNS.c.state == "running")
                .values(state=state, ended_at=now, reason=reason)
            )

    def run(self, run_id: int) -> Run:
        """Return one run."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(RUNS).where(RUNS.c.run_id == run_id)).mappings().first()
        if row is None:
            raise NotFoundError("run.unknown", f"no run {run_id}", 'see "forecast status"')
        return _run(row)

    def runs(self, *, dataset: str | None = None, states: tuple[str, ...] = (), limit: int = 50) -> list[Run]:
        """Return the newest runs first, at most ``limit``."""
        query = sa.select(RUNS).order_by(RUNS.c.run_id.desc()).limit(limit)
        if dataset is not None:
            query = query.where(RUNS.c.dataset == dataset)
        if states:
            query = query.where(RUNS.c.state.in_(states))
        with self._transaction() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def last_logical_date(self, job: str) -> str | None:
        """Return the latest logical date that was ever claimed for a job."""
        with self._transaction() as connection:
            return connection.execute(sa.select(sa.func.max(RUNS.c.logical_date)).where(RUNS.c.job == job)).scalar()

    # --- champions --------------------------------------------------------------------------------------------------

    def promote(self, champion: Champion) -> None:
        """Make a model the champion of its data set; older champions stay as history."""
        with self._transaction() as connection:
            connection.execute(sa.insert(CHAMPIONS).values(_fields(champion)))

    def champion(self, dataset: str) -> Champion | None:
        """Return the model that is champion now, if there is one."""
        return next(iter(self.champions(dataset, limit=1)), None)

    def champions(self, dataset: str, limit: int = 50) -> list[Champion]:
        """Return who is and who was champion, the newest first; one who came back is there twice."""
        query = (
            sa.select(CHAMPIONS)
            .where(CHAMPIONS.c.dataset == dataset)
            .order_by(CHAMPIONS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Champion(**{key: value for key, value in row.items() if key != "sequence"}) for row in rows]

    def champion_folders(self, dataset: str) -> frozenset[str]:
        """Return the folders of all models that are or were champion."""
        query = sa.select(CHAMPIONS.c.folder).where(CHAMPIONS.c.dataset == dataset)
        with self._transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    # --- issuances --------------------------------------------------------------------------------------------------

    def issue(self, issuance: Issuance) -> None:
        """Make a forecast visible; its rows must be in the lake already."""
        values = {name: getattr(issuance, name) for name in Issuance.__slots__ if name != "sequence"}
        values["quantiles"] = json.dumps(issuance.quantiles)
        with self._transaction() as connection:
            connection.execute(sa.insert(ISSUANCES).values(values))

    def issuance(self, dataset: str, *, as_of: datetime | None = None) -> Issuance | None:
        """Return the latest forecast of a data set, or the latest that had been issued at ``as_of``."""
        query = (
            sa.select(ISSUANCES).where(ISSUANCES.c.dataset == dataset).order_by(ISSUANCES.c.sequence.desc()).limit(1)
        )
        if as_of is not None:
            query = query.where(ISSUANCES.c.issued_at <= as_of)
        with self._transaction() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _issuance(row)

    def issuances(self, dataset: str, limit: int = 50) -> list[Issuance]:
        """Return the newest forecasts first, at most ``limit``."""
        query = (
            sa.select(ISSUANCES)
            .where(ISSUANCES.c.dataset == dataset)
            .order_by(ISSUANCES.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [_issuance(row) for row in connection.execute(query).mappings()]

    def first_issuance(self, dataset: str, model_version: str) -> Issuance | None:
        """Return the first forecast that was issued with a model."""
        query = (
            sa.select(ISSUANCES)
            .where(ISSUANCES.c.dataset == dataset, ISSUANCES.c.model_version == model_version)
            .order_by(ISSUANCES.c.sequence)
            .limit(1)
        )
        with self._transaction() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _issuance(row)

    # --- nights -----------------------------------------------------------------------------------------------------

    def keep_night(self, night: Night, promoted: Champion | None = None) -> None:
        """Keep what a night compared and decided, and make the promoted model champion: both or neither."""
        row = {"dataset": night.dataset, "recorded_at": night.recorded_at, "document": night.model_dump_json()}
        with self._transaction() as connection:
            connection.execute(sa.insert(NIGHTS).values(row))
            if promoted is not None:
                connection.execute(sa.insert(CHAMPIONS).values(_fields(promoted)))

    def nights(self, dataset: str, limit: int = 1) -> list[Night]:
        """Return the latest nights of a data set, newest first."""
        query = (
            sa.select(NIGHTS.c.document)
            .where(NIGHTS.c.dataset == dataset)
            .order_by(NIGHTS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [Night.model_validate_json(text) for text in connection.execute(query).scalars()]

    # --- receipts ---------------------------------------------------------------------------------------------------

    def keep(self, receipt: Receipt) -> None:
        """Keep the receipt of an ingestion."""
        row = {
            "dataset": receipt.dataset, "recorded_at": receipt.recorded_at, "data_version": receipt.data_version,
            "document": receipt.model_dump_json(),
        }  # fmt: skip
        with self._transaction() as connection:
            connection.execute(sa.insert(RECEIPTS).values(row))

    def receipts(self, dataset: str, limit: int = 50) -> list[Receipt]:
        """Return the latest receipts of a data set, newest first."""
        query = (
            sa.select(RECEIPTS.c.document)
            .where(RECEIPTS.c.dataset == dataset)
            .order_by(RECEIPTS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [Receipt.model_validate_json(text) for text in connection.execute(query).scalars()]

    # --- clocks of replays ------------------------------------------------------------------------------------------

    def clock(self, dataset: str, start: datetime) -> datetime:
        """Return the position of a replay, which begins at ``start``."""
        query = sa.select(CLOCKS.c.position).where(CLOCKS.c.dataset == dataset)
        with self._transaction() as connection:
            found: datetime | None = connection.execute(query).scalar()
            if found is not None:
                return found
            # Two may ask for the first time at once: the second finds what the first wrote.
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            connection.execute(insert(CLOCKS).values(dataset=dataset, position=start).on_conflict_do_nothing())
            begun: datetime = connection.execute(query).scalar_one()
        return begun

    def move_clock(self, dataset: str, position: datetime) -> None:
        """Move a replay on, unless it has stopped; only the scheduler does."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False))
                .values(position=position)
            )

    def stop_clock(self, dataset: str, position: datetime) -> None:
        """Stop a replay for good where its source has no more rows: nothing new would ever come."""
        until = sa.literal(position + _LAST_ROWS, UtcTime)
        # The scheduler moves it on while the source is read: time never goes back.
        latest = sa.case((CLOCKS.c.position > until, CLOCKS.c.position), else_=until)
        with self._transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False))
                .values(stopped=True, position=latest)
            )


@contextmanager
def _told_errors() -> Iterator[None]:
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


def _fields(champion: Champion) -> dict[str, Any]:
    return {name: getattr(champion, name) for name in Champion.__slots__}


def _run(row: RowMapping) -> Run:
    return Run(**{name: row[name] for name in Run.__slots__})


def _issuance(row: RowMapping | Mapping[str, Any]) -> Issuance:
    values = dict(row)
    values["quantiles"] = tuple(json.loads(values["quantiles"]))
    return Issuance(**values)
