"""Ledgers of every released schema go on, and models and migrations describe the same tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.reliability.account import all_runs
from forecast.config.jobs import Cause, Due, Job
from forecast.errors import ConflictError, StorageError
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.database import Database
from forecast.ledger.issuance import Issuance
from forecast.ledger.migrations import HEAD, LAST_NUMBER, VERSION_TABLE, script_config
from forecast.ledger.receipts import Receipt
from forecast.ledger.tables import METADATA, SCHEMA

RELEASED = (1, 2, 3, 4)
"""The schemas of releases before alembic; ``released/`` holds the statements that their code created tables with."""
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
EACH = Job.model_validate({"dataset": "tiny", "steps": ["forecast"], "cron": "* * * * *", "catch_up": "each"})
DUE = Due(logical_date="2024-05-01T12:00", at=NOW, cause=Cause.CRON)
ISSUED = Issuance(
    forecast_id="old", dataset="tiny", issued_at=NOW, origin=NOW, horizon=24, quantiles=(0.5,), data_version=1,
    model_name="linear", model_version="v1", model_folder="v1", imputed_fraction=0.0, recorded_at=NOW,
)  # fmt: skip
ROWS = """
INSERT INTO clocks VALUES ('tiny', '2024-05-01 11:00:00.000000', {false});
INSERT INTO champions (dataset, model_name, model_version, folder, digest, promoted_at, verdict)
    VALUES ('tiny', 'linear', 'v1', 'v1', 'd', '2024-05-01 12:00:00.000000', 'first');
INSERT INTO issuances (forecast_id, dataset, issued_at, origin, horizon, quantiles, data_version, model_name,
    model_version, model_folder, imputed_fraction, recorded_at) VALUES ('old', 'tiny', '2024-05-01 12:00:00.000000',
    '2024-05-01 12:00:00.000000', 24, '[0.5]', 1, 'linear', 'v1', 'v1', 0.0, '2024-05-01 12:00:00.000000');
INSERT INTO runs (job, dataset, kind, logical_date, state, claimed_at, pid) VALUES
    ('tiny.retrain', 'tiny', 'retrain', '2024-04-30T02:30', 'succeeded', '2024-04-30 02:30:01.000000', 7);
"""
EARLIER_RUNS = """
INSERT INTO runs (job, dataset, kind, logical_date, state, claimed_at, pid) VALUES
    ('tiny.retrain', 'tiny', 'retrain', '2024-05-01T02:30', 'running', '2024-05-01 02:30:01.000000', 8),
    ('tiny.forecast', 'tiny', 'forecast', '2024-05-01T02:00', 'abandoned', '2024-05-01 02:00:01.000000', 9),
    ('tiny.forecast', 'tiny', 'forecast', '2024-05-01T03:00', 'running', '2024-05-01 03:00:01.000000', 10);
"""
ALERT = """
INSERT INTO alerts (dataset, kind, subject, raised_at, told, value, "limit")
    VALUES ('tiny', 'stale', 'data', '2024-05-01 12:00:00.000000', 'no rows for 7.0 h', 25200.0, 21600.0);
"""


@pytest.fixture
def execute(url: str) -> Callable[[str], None]:
    """Run statements on the database, each ended by a semicolon at the end of a line."""

    def run(statements: str) -> None:
        engine = sa.create_engine(url)
        on_sqlite = engine.dialect.name == "sqlite"
        words = {
            "key": "INTEGER NOT NULL" if on_sqlite else "BIGSERIAL NOT NULL",
            "time": "DATETIME" if on_sqlite else "TIMESTAMP",
            "blob": "BLOB" if on_sqlite else "BYTEA",
            "false": "0" if on_sqlite else "false",
        }
        with engine.begin() as connection:
            for statement in statements.format(**words).split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
        engine.dispose()

    return run


@pytest.fixture
def release(execute: Callable[[str], None]) -> Callable[[int], None]:
    """Make a ledger as the release with this schema made and used it."""

    def make(number: int) -> None:
        execute((Path(__file__).parent / "released" / f"schema_{number}.sql").read_text())
        execute(ROWS + (EARLIER_RUNS if number < 4 else ALERT))

    return make


@pytest.fixture
def ask(url: str) -> Callable[[Callable[[sa.Connection], Any]], Any]:
    """Answer a question about the database over a connection that knows nothing of the ledger."""

    def answer(question: Callable[[sa.Connection], Any]) -> Any:
        engine = sa.create_engine(url)
        try:
            with engine.begin() as connection:
                return question(connection)
        finally:
            engine.dispose()

    return answer


def tables(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names())


def difference(connection: sa.Connection) -> list[Any]:
    """What alembic would change to make the database's tables those of ``tables.py``."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {"version_table": VERSION_TABLE.name, "compare_type": True, "compare_server_default": True}
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)
    return found


def indexes(connection: sa.Connection) -> set[tuple[str, str]]:
    """Names and definitions of all indexes; alembic compares no WHERE of a partial one."""
    query = {
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }[connection.dialect.name]
    return {(name, definition) for name, definition in connection.exec_driver_sql(query)}


def expected_indexes(connection: sa.Connection) -> set[tuple[str, str]]:
    """The indexes of a new ledger, made in a database or a schema of its own."""
    if connection.dialect.name == "sqlite":
        with sa.create_engine("sqlite://").begin() as new:
            METADATA.create_all(new)
            VERSION_TABLE.create(new)
            return indexes(new)
    connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    METADATA.create_all(connection)
    VERSION_TABLE.create(connection)
    return {(name, definition) for name, definition in indexes(connection)}


@pytest.mark.parametrize("number", RELEASED)
def test_a_released_ledger_goes_on_with_its_rows(
    number: int, release: Callable[[int], None], url: str, at_once: Callable[..., list[Any]]
) -> None:
    release(number)
    # Of all that open it at once, one migrates it.
    assert (
        at_once(lambda own, _: own.champions.current("tiny"))
        == [Champion("tiny", "linear", "v1", "v1", "d", NOW, "first")] * 8
    )
    with Ledger.open(url) as ledger:
        assert ledger.clocks.position("tiny", NOW) == NOW - timedelta(hours=1)
        assert ledger.issuances.latest("tiny") == replace(ISSUED, sequence=1)
        ledger.issuances.add(replace(ISSUED, forecast_id="new", newest_observed=NOW, backfilled=False))
        assert ledger.issuances.newest("tiny")[0].newest_observed == NOW
        ledger.receipts.add(
            Receipt(dataset="tiny", sources=(), digest="", rows=1, recorded_at=NOW, data_version=2, new=1)
        )
        assert ledger.receipts.newest_change("tiny") == 2
        (run_id,) = ledger.runs.claim("tiny.forecast", EACH, [DUE], NOW)
        run = ledger.runs.take("here", NOW, trainings=1, others=1)
        assert run is not None
        assert (run.run_id, ledger.runs.finish(run, "succeeded", NOW, "done")) == (run_id, "succeeded")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_of_a_release_before_the_queue_has_ended(number: int, release: Callable[[int], None], url: str) -> None:
    release(number)
    with Ledger.open(url) as ledger:
        assert {(run.job, run.logical_date): run.state for run in all_runs(ledger)} == {
            ("tiny.retrain", "2024-04-30T02:30"): "succeeded",
            ("tiny.retrain", "2024-05-01T02:30"): "failed",
            ("tiny.forecast", "2024-05-01T02:00"): "failed",
            ("tiny.forecast", "2024-05-01T03:00"): "failed",
        }
        assert {run.attempt for run in all_runs(ledger)} == {0}
        with pytest.raises(ConflictError, match="another release"):
            _ = all_runs(ledger)[0].definition
        ledger.runs.claim("tiny.forecast", EACH, [DUE, replace_date(DUE)], NOW)
        assert ledger.runs.take("here", NOW, trainings=1, others=1) is not None
        with pytest.raises(sa.exc.IntegrityError), ledger._database.transaction() as connection:
            connection.exec_driver_sql("UPDATE runs SET state = 'running' WHERE state = 'queued'")


def replace_date(due: Due) -> Due:
    return due.model_copy(update={"logical_date": "2024-05-01T12:01"})


def test_an_alert_of_schema_4_keeps_its_text_as_its_message(release: Callable[[int], None], url: str) -> None:
    release(4)
    with Ledger.open(url) as ledger:
        (alert,) = ledger.alerts.find("tiny")
        assert (alert.kind, alert.message, alert.value, alert.is_open) == ("stale", "no rows for 7.0 h", 25200.0, True)


def test_a_ledger_of_schema_4_gets_the_tables_that_this_schema_gained_later(
    release: Callable[[int], None], execute: Callable[[str], None], ask: Callable[..., Any], url: str
) -> None:
    release(4)
    execute("DROP TABLE keys;\nDROP TABLE alerts;\nDROP TABLE lead_scores;\n")
    Ledger.open(url).close()
    assert ask(difference) == []


@pytest.mark.parametrize("number", [None, 0, *RELEASED], ids=["new", "by-revisions", *map(str, RELEASED)])
def test_models_and_migrations_describe_the_same_tables(
    number: int | None, release: Callable[[int], None], ask: Callable[..., Any], url: str
) -> None:
    if number == 0:
        from alembic import command

        ask(lambda connection: command.upgrade(script_config(connection), "head"))
    else:
        if number is not None:
            release(number)
        Ledger.open(url).close()
    assert ask(difference) == []
    assert ask(tables) == {*METADATA.tables, VERSION_TABLE.name}
    assert ask(lambda connection: connection.execute(sa.select(VERSION_TABLE.c.version_num)).all()) == [(HEAD,)]
    found = ask(indexes)
    assert {name: " ".join(text.split()) for name, text in found if not name.endswith(("_pkey", "_pkc"))} == {
        name: " ".join(text.split()) for name, text in ask(expected_indexes) if not name.endswith(("_pkey", "_pkc"))
    }


def test_the_newest_revision_is_the_one_that_new_ledgers_are_stamped_with(ask: Callable[..., Any]) -> None:
    from alembic.script import ScriptDirectory

    scripts = ask(lambda connection: ScriptDirectory.from_config(script_config(connection)))
    assert scripts.get_heads() == [HEAD]
    assert len(list(scripts.walk_revisions())) >= LAST_NUMBER


def test_releases_before_alembic_refuse_the_ledger(
    release: Callable[[int], None], ask: Callable[..., Any], url: str
) -> None:
    release(4)
    Ledger.open(url).close()
    assert ask(lambda connection: connection.execute(sa.select(SCHEMA.c.version)).all()) == [(LAST_NUMBER,)]


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "before-alembic"])
@pytest.mark.parametrize(
    "later",
    [
        "UPDATE ledger_schema SET version = 99;\n",
        """CREATE TABLE IF NOT EXISTS ledger_alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
DELETE FROM ledger_alembic_version;
INSERT INTO ledger_alembic_version VALUES ('schema_99');
""",
    ],
    ids=["number", "revision"],
)
def test_a_ledger_of_a_later_release_is_refused(
    is_new: bool, later: str, release: Callable[[int], None], execute: Callable[[str], None], url: str
) -> None:
    if is_new:
        Ledger.open(url).close()
    else:
        release(4)
    execute(later)
    with pytest.raises(StorageError, match=r"later release \(schema (schema_)?99") as caught:
        Ledger.open(url)
    assert caught.value.code == "ledger.other_version"


@pytest.mark.parametrize("number", [None, 3])
def test_the_version_table_of_mlflow_stays_as_it_is(
    number: int | None,
    release: Callable[[int], None],
    execute: Callable[[str], None],
    ask: Callable[..., Any],
    url: str,
) -> None:
    execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);\n"
        "INSERT INTO alembic_version VALUES ('451aebb31d03');\n"
    )
    if number is not None:
        release(number)
    for _ in range(2):
        Ledger.open(url).close()
    assert ask(lambda connection: connection.exec_driver_sql("SELECT * FROM alembic_version").all()) == [
        ("451aebb31d03",)
    ]


def test_a_migration_that_fails_changes_nothing(
    release: Callable[[int], None], execute: Callable[[str], None], ask: Callable[..., Any], url: str
) -> None:
    release(3)
    execute("CREATE INDEX runs_state ON runs (state);\n")  # the last statement but a few of schema 4
    before = ask(tables)
    with pytest.raises(StorageError, match="runs_state"):
        Ledger.open(url)
    assert ask(tables) == before
    assert ask(lambda connection: connection.exec_driver_sql("SELECT version FROM ledger_schema").scalar()) == 3
    execute("DROP INDEX runs_state;\n")
    Ledger.open(url).close()
    assert ask(difference) == []


def test_a_migration_prints_nothing_and_leaves_logging_alone(release: Callable[[int], None], url: str) -> None:
    release(1)
    program = (
        "import logging, sys; from forecast.ledger import Ledger\n"
        "root = logging.getLogger(); before = (root.level, list(root.handlers))\n"
        "Ledger.open(sys.argv[1]).close()\n"
        "assert 'alembic' in sys.modules\n"
        "assert before == (root.level, list(root.handlers))\n"
        "for name in ('alembic', 'alembic.runtime.migration'):\n"
        "    logger = logging.getLogger(name)\n"
        "    assert (logger.level, logger.disabled, logger.propagate) == (logging.NOTSET, False, True)\n"
        "    assert {type(handler) for handler in logger.handlers} <= {logging.NullHandler}"
    )
    done = subprocess.run([sys.executable, "-c", program, url], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_new_ledger_and_an_up_to_date_one_are_opened_without_alembic(url: str) -> None:
    program = (
        "import sys; from forecast.ledger import Ledger\n"
        "for _ in range(2): Ledger.open(sys.argv[1]).close()\n"
        "sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True)


def test_a_database_in_memory_is_a_ledger_too() -> None:
    with Ledger(Database.open("sqlite://")) as ledger:
        assert all_runs(ledger) == []
