"""Rows from a table or query of any database that SQLAlchemy supports."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from forecast.config.dataset import DatasetConfig
from forecast.config.sources import SqlSource
from forecast.errors import ConfigError, NotFoundError, StorageError, first_line, nearest
from pipelines.sources.batch import Batch, Unreadable, digest_of, require_columns, used_columns
from pipelines.sources.records import frame_of

_READ: Mapping[type, Callable[[str], Any]] = {
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    int: int,
    float: float,
    Decimal: Decimal,
    str: str,
}
"""Types of a cursor, and the parsers of their stored text."""


def read_sql(dataset: str, config: DatasetConfig, base: Path, cursor: str | None) -> Iterator[Batch | Unreadable]:
    """Read a table or query; with a cursor column, only from its last seen value on.

    The last seen value is read again, because later rows may have the same value. All rows are read if the column
    restarts with smaller values, or changes its type. Raises ``source.not_set``, ``.malformed_url``,
    ``.unknown_database``, ``.driver_missing``, ``.not_found`` (an SQLite file), ``.not_connected``, ``.no_such_table``,
    ``.query_failed``, ``.malformed_cursor`` and ``ingest.missing_column``.
    """
    source = config.source
    if not isinstance(source, SqlSource):
        raise TypeError(source)
    name = f"table {source.table}" if source.table else "query"
    with _connected(source, base, name) as connection:
        rows = _from(connection, source)
        wanted = _wanted(connection, rows, config, name)
        if source.cursor:
            wanted, cursor = _since(connection, rows, wanted, source.cursor, cursor)
        result = connection.execute(wanted)
        columns, values = result.keys(), result.all()
        frame = frame_of({column: [row[at] for row in values] for at, column in enumerate(columns)}, name)
    yield replace(Batch.of(frame, dataset, config, name, digest_of(frame)), cursor=cursor)


@contextlib.contextmanager
def _connected(source: SqlSource, base: Path, name: str) -> Iterator[sa.Connection]:
    url = _url(source, base)
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    except sa.exc.NoSuchModuleError:
        raise ConfigError(
            "source.unknown_database",
            f'SQLAlchemy does not support the database "{url.drivername}"',
            "correct the URL of the source",
        ) from None
    except ImportError as error:
        extra = 'run: pip install "forecast-service[postgresql]" and write postgresql+psycopg:// in the URL'
        raise ConfigError(
            "source.driver_missing",
            f'the driver of "{url.drivername}" is not installed ({error})',
            extra if url.get_backend_name() == "postgresql" else "install it in the environment of the service",
        ) from error
    try:
        connection = engine.connect()
    except sa.exc.SQLAlchemyError as error:
        raise StorageError(
            "source.not_connected",
            f"cannot connect to the database of {name} ({_summary(error, url)})",
            "check host, user, password, and whether the database is running",
        ) from None
    try:
        yield connection
    except sa.exc.SQLAlchemyError as error:
        raise StorageError(
            "source.query_failed",
            f"cannot read {name} ({_summary(error, url)})",
            "correct the source in the config file",
        ) from error
    finally:
        connection.close()


def _url(source: SqlSource, base: Path) -> sa.URL:
    text = source.url or os.environ.get(source.url_from)
    if not text:
        raise ConfigError(
            "source.not_set",
            f'the environment variable "{source.url_from}" of source.url_from is not set',
            "set it to the database's URL",
        )
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or "@" in (url.host or ""):  # from None and without its text: it may hold a password
        raise ConfigError(
            "source.malformed_url",
            "the URL of the database is malformed",
            'write it as postgresql+psycopg://user:password@host/database, "@" in a password as %40',
        ) from None
    if url.get_backend_name() == "sqlite" and url.database and not url.database.startswith((":memory:", "file:")):
        file = base / Path(url.database).expanduser()
        if not file.is_file():  # SQLite would create an empty one
            raise NotFoundError("source.not_found", f'the database "{file}" does not exist', "correct the source's URL")
        return url.set(database=str(file))
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        return url.update_query_dict({"connect_timeout": "10"})
    return url


def _summary(error: sa.exc.SQLAlchemyError, url: sa.URL) -> str:
    message = first_line(getattr(error, "orig", None) or error)
    secrets = [url.password, *(value for key, value in url.query.items() if "pass" in key)]
    for secret in secrets:
        message = message.replace(str(secret), "...") if secret else message
    return message


def _from(connection: sa.Connection, source: SqlSource) -> sa.FromClause | sa.TextClause:
    if source.query:
        # Escaped, because a colon begins a parameter; on lines of its own, because a comment may end it.
        inner = source.query.strip().removesuffix(";").replace(":", "\\:")
        return sa.text(f"(\n{inner}\n) source_rows")
    schema, _, table = source.table.rpartition(".")
    inspector = sa.inspect(connection)
    if not inspector.has_table(table, schema=schema or None):
        known = inspector.get_table_names(schema or None) + inspector.get_view_names(schema or None)
        raise NotFoundError("source.no_such_table", f'the table "{source.table}" does not exist', nearest(table, known))
    return sa.table(table, schema=schema or None)


def _wanted(connection: sa.Connection, rows: Any, config: DatasetConfig, name: str) -> sa.Select[Any]:
    present = connection.execute(sa.select(sa.text("*")).select_from(rows).where(sa.false())).keys()
    require_columns(present, config, name)
    columns: list[sa.ColumnElement[Any]] = [sa.column(column) for column in used_columns(config) if column in present]
    return sa.select(*columns).select_from(rows)


def _since(
    connection: sa.Connection, rows: Any, wanted: sa.Select[Any], column: str, seen: str | None
) -> tuple[sa.Select[Any], str | None]:
    """Return the statement for the rows from ``seen`` on, in the order of the column, and its newest value."""
    grows: sa.ColumnElement[Any] = sa.column(column)
    newest = connection.execute(sa.select(sa.func.max(grows)).select_from(rows)).scalar()
    wanted = wanted.order_by(grows)
    if newest is None:
        return wanted, seen
    read = _READ.get(type(newest))
    if read is None:
        raise ConfigError(
            "source.malformed_cursor",
            f'the cursor column "{column}" has the type {type(newest).__name__}',
            "choose a column of times, numbers or text",
        )
    with contextlib.suppress(
        ValueError, ArithmeticError, TypeError
    ):  # a value of another type than the column's, or not comparable
        last = None if seen is None else read(seen)
        if last is not None and last <= newest:
            # Otherwise rows without a cursor value would be read the first time only.
            wanted = wanted.where(sa.or_(grows >= sa.literal(last, _sql_type(last)), grows.is_(None)))
    return wanted, newest.isoformat() if isinstance(newest, date) else str(newest)


def _sql_type(value: Any) -> Any:
    if isinstance(value, datetime):  # PostgreSQL would read an aware time as its wall time
        return sa.DateTime(timezone=value.tzinfo is not None)
    return sa.String() if isinstance(value, str) else None
