from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from forecast.errors import ForecastError
from pipelines.sources import Batch

Read = Callable[..., Batch]
Refuse = Callable[..., ForecastError]
ROWS = """
create table "Site readings; --" (
    time timestamp, site text, load double precision, price numeric(10, 3), wind real, changed bigint, "order" text
);
insert into "Site readings; --" values
    ('2024-01-01 00:00', 'east', 1.5, 2.125, 3, 1, 'a'),
    ('2024-01-01 00:00', 'west', null, 2.25, 3, 2, 'b'),
    ('2024-01-01 01:00', 'east', 2.5, 2.5, 3, 2, 'c'),
    ('2024-01-01 02:00', 'east', 3.5, 2.5, 3, 3, 'd');
create table nothing_yet (time timestamp, site text, load real, price real, wind real, changed bigint);
create view loads as select time, site, load, price, wind from "Site readings; --" where load is not null;
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """A database whose URL is in the environment as READINGS."""
    if request.param == "sqlite":
        url = "sqlite:///readings.db"
        engine = sa.create_engine(f"sqlite:///{tmp_path}/readings.db")
    else:
        url = request.getfixturevalue("postgresql").render_as_string(hide_password=False)
        engine = sa.create_engine(url)
    monkeypatch.setenv("READINGS", url)
    with engine.begin() as connection:
        if request.param == "postgresql":
            connection.exec_driver_sql("drop schema public cascade; create schema public")
        for statement in ROWS.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    yield engine
    engine.dispose()


def source(**fields: Any) -> dict[str, Any]:
    return {"kind": "sql", "url_from": "READINGS"} | fields


def keys(batch: Batch) -> list[tuple[str, str]]:
    times = batch.rows["time"].cast(pl.String).str.slice(11, 5)
    return list(zip(batch.rows["series"], times, strict=True))


def test_a_table_of_any_name_is_read(database: sa.Engine, read_one: Read) -> None:
    assert database
    batch = read_one(source(table="Site readings; --"))
    assert (batch.name, batch.cursor) == ("table Site readings; --", None)
    assert batch.rows.drop("time").rows() == [
        (1, "east", 1.5, 2.125, 3.0),
        (2, "west", None, 2.25, 3.0),
        (3, "east", 2.5, 2.5, 3.0),
        (4, "east", 3.5, 2.5, 3.0),
    ]
    assert keys(batch)[2] == ("east", "01:00")
    assert len(batch.digest) == 64
    assert read_one(source(table="Site readings; --")).digest == batch.digest


def test_views_and_queries_are_read_too(database: sa.Engine, read_one: Read) -> None:
    schema = "public." if database.dialect.name == "postgresql" else "main."
    assert len(read_one(source(table="loads")).rows) == 3
    assert len(read_one(source(table=schema + "loads")).rows) == 3
    query = """
        select site, time, load, price, wind, '100% :x' as "note:y" from loads -- of :all that are there
        where site like 'e%' and time < '2024-01-01 01:30:00';
    """
    batch = read_one(source(query=query))
    assert (batch.name, keys(batch)) == ("query", [("east", "00:00"), ("east", "01:00")])


def test_a_table_without_rows_gives_none(database: sa.Engine, read_one: Read) -> None:
    assert database
    batch = read_one(source(table="nothing_yet", cursor="changed"), "7")
    assert (len(batch.rows), batch.cursor) == (0, "7")
    assert batch.rows.columns == ["row", "series", "time", "load", "price", "wind"]


@pytest.mark.parametrize(
    ("cursor", "newest", "seen", "again"),
    [
        ("changed", "3", "2", [("west", "00:00"), ("east", "01:00"), ("east", "02:00")]),
        ("order", "d", "c", [("east", "01:00"), ("east", "02:00")]),
        ("time", "2024-01-01{}02:00{}", "2024-01-01{}01:00{}", [("east", "01:00"), ("east", "02:00")]),
        ("price", "2.500", "2.25", [("west", "00:00"), ("east", "01:00"), ("east", "02:00")]),
    ],
)
def test_only_rows_from_the_last_seen_value_on_are_read(
    database: sa.Engine, read_one: Read, cursor: str, newest: str, seen: str, again: list[tuple[str, str]]
) -> None:
    between, behind = ("T", ":00") if database.dialect.name == "postgresql" else (" ", "")
    table = source(table="Site readings; --", cursor=cursor)
    first = read_one(table)
    assert len(first.rows) == 4
    assert first.cursor is not None
    assert first.cursor.removesuffix("00") == newest.format(between, behind).removesuffix("00")
    assert sorted(keys(read_one(table, seen.format(between, behind)))) == sorted(again)
    last = read_one(table, first.cursor)
    assert (0 < len(last.rows) < 4, last.cursor) == (True, first.cursor)


def test_rows_that_came_since_are_read_and_those_without_a_value_every_time(
    database: sa.Engine, read_one: Read
) -> None:
    table = source(table="Site readings; --", cursor="changed")
    cursor = read_one(table).cursor
    with database.begin() as connection:
        connection.exec_driver_sql(
            """insert into "Site readings; --" values ('2024-01-01 03:00', 'east', 1, 1, 1, 3, 'e'),
            ('2024-01-01 04:00', 'east', 1, 1, 1, 10, 'f'), ('2024-01-01 05:00', 'east', 1, 1, 1, null, 'g')"""
        )
    batch = read_one(table, cursor)
    assert sorted(time for _, time in keys(batch)) == ["02:00", "03:00", "04:00", "05:00"]
    assert batch.cursor == "10"


@pytest.mark.parametrize("seen", ["9", "not a number", "2024-01-01T00:00:00"])
def test_everything_is_read_where_the_last_seen_value_means_nothing(
    database: sa.Engine, read_one: Read, seen: str
) -> None:
    assert database
    batch = read_one(source(table="Site readings; --", cursor="changed"), seen)
    assert (len(batch.rows), batch.cursor) == (4, "3")


def test_a_last_seen_value_is_never_part_of_the_statement(database: sa.Engine, read_one: Read) -> None:
    seen = "a' or 1=1; drop table nothing_yet; --"
    batch = read_one(source(table="Site readings; --", cursor="order"), seen)
    assert [time for _, time in keys(batch)] == ["00:00", "01:00", "02:00"]
    assert sa.inspect(database).has_table("nothing_yet")


def test_aware_times_of_postgresql_are_compared_as_instants(
    postgresql: sa.URL, read_one: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READINGS", postgresql.render_as_string(hide_password=False))
    engine = sa.create_engine(postgresql)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """drop table if exists instants;
            create table instants (time timestamptz, site uuid, load numeric, price int, wind text);
            insert into instants select t, gen_random_uuid(), 'NaN', 7, '3.5'
            from generate_series('2024-10-27 00:00Z'::timestamptz, '2024-10-27 02:00Z', '30 min') t"""
        )
    engine.dispose()
    table = source(table="instants", cursor="time")
    first = read_one(table)
    assert first.rows["time"].dt.convert_time_zone("UTC").to_list() == [
        datetime(2024, 10, 27, hour, minute, tzinfo=UTC) for hour, minute in ((0, 0), (0, 30), (1, 0), (1, 30), (2, 0))
    ]
    assert (first.rows["load"].is_nan().all(), first.rows["price"].to_list()) == (True, [7] * 5)
    assert first.rows["series"].str.len_chars().to_list() == [36] * 5
    assert first.cursor == "2024-10-27T03:00:00+01:00"
    # The clock of the server shows 02:30 twice that night.
    assert len(read_one(table, "2024-10-27T02:30:00+01:00").rows) == 2
    assert len(read_one(table, "2024-10-27T02:30:00+02:00").rows) == 4


def test_a_column_of_numbers_and_text_stays_text(tmp_path: Path, read_one: Read) -> None:
    with sqlite3.connect(tmp_path / "mixed.db") as connection:
        connection.execute("create table rows (time, site, load, price, wind)")
        connection.executemany(
            "insert into rows values ('t', 'a', ?, ?, null)", [(1, 1.5), ("n/a", 10**18), (None, 2), (2.5, None)]
        )
    connection.close()
    rows = read_one({"kind": "sql", "url": "sqlite:///mixed.db", "table": "rows"}).rows
    assert rows["load"].to_list() == ["1", "n/a", None, "2.5"]
    assert rows["price"].to_list() == [1.5, 1e18, 2.0, None]


@pytest.mark.parametrize(
    ("fields", "code", "fact"),
    [
        ({"table": "Site reading; --"}, "source.no_such_table", 'did you mean "Site readings; --"?'),
        ({"table": "load"}, "source.no_such_table", 'did you mean "loads"?'),
        ({"query": "select tim from loads"}, "source.query_failed", "tim"),
        ({"query": "selec"}, "source.query_failed", "cannot read query"),
        ({"query": "select time, site from loads"}, "ingest.missing_column", '"query" has no column "load"'),
        ({"table": "loads", "cursor": "changed"}, "ingest.missing_column", 'no column "changed"'),
        ({"table": "loads", "cursor": "time", "url_from": "NOT_SET"}, "source.not_set", '"NOT_SET"'),
    ],
)
def test_what_is_not_in_the_database_is_named(
    database: sa.Engine, refusal: Refuse, fields: dict[str, Any], code: str, fact: str
) -> None:
    assert database
    error = refusal(source(**fields))
    assert (error.code, fact in str(error)) == (code, True), str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("url", "code", "fact"),
    [
        ("sqlite:///none.db", "source.not_found", "none.db"),
        ("sqlite:///rows.csv", "source.query_failed", "not a database"),
        ("readings.db", "source.malformed_url", "malformed"),
        ("postgresql://me:hunter2@secret@127.0.0.1/x", "source.malformed_url", "%40"),
        ("postgresql://me:hunter2@127.0.0.1:1/x", "source.not_connected", "refused"),
        ("postgresql://me@127.0.0.1:1/x?password=hunter2", "source.not_connected", "refused"),
        ("nosql://me:hunter2@127.0.0.1/x", "source.unknown_database", '"nosql"'),
        ("oracle+oracledb://me:hunter2@127.0.0.1/x", "source.driver_missing", "oracledb"),
    ],
)
def test_a_url_that_leads_nowhere_is_named_without_its_password(
    tmp_path: Path, refusal: Refuse, url: str, code: str, fact: str
) -> None:
    (tmp_path / "rows.csv").write_text("time,site\n" * 200)
    error = refusal({"kind": "sql", "url": url, "table": "rows"})
    assert (error.code, fact in str(error)) == (code, True), str(error)
    assert "hunter2" not in str(error)
    assert not (tmp_path / "none.db").exists()


def test_a_missing_driver_of_postgresql_names_the_extra(refusal: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refusal({"kind": "sql", "url": "postgresql+psycopg://me:hunter2@127.0.0.1/x", "table": "rows"})
    assert error.code == "source.driver_missing"
    assert 'pip install "forecast-service[postgresql]"' in str(error)


def test_a_wrong_password_is_reported_but_not_shown(postgresql: sa.URL, refusal: Refuse) -> None:
    url = postgresql.set(password=f"{postgresql.password}-wrong").render_as_string(hide_password=False)
    error = refusal({"kind": "sql", "url": url, "table": "rows"})
    assert (error.code, 'for user "me"' in str(error)) == ("source.not_connected", True)
    assert "hunter2" not in str(error)


def test_a_cursor_column_that_cannot_grow_is_named(
    postgresql: sa.URL, refusal: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READINGS", postgresql.render_as_string(hide_password=False))
    query = "select now() as time, '' as site, 1 as load, 1 as price, 1 as wind, '1 day'::interval as changed"
    error = refusal(source(query=query, cursor="changed"))
    assert (error.code, '"changed" has the type timedelta' in str(error)) == ("source.malformed_cursor", True)
