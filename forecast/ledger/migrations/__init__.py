"""Creation and migration of the ledger's tables; alembic is imported only if an older ledger must be migrated."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import sqlalchemy as sa

import forecast.ledger.issuance  # noqa: F401 - registers its table
from forecast.errors import StorageError
from forecast.ledger.tables import METADATA, SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config

_VERSIONS = Path(__file__).with_name("versions").glob("schema_*.py")
HEAD = f"schema_{max(int(path.stem.split('_')[1]) for path in _VERSIONS)}"
"""The newest revision in ``versions/``; a test compares it with alembic's own answer."""
VERSION_TABLE = sa.Table(
    "ledger_alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True)
)
"""Alembic's version table. It has its own name because MLflow may keep ``alembic_version`` in the same database."""
LAST_NUMBER = 5
"""Releases before alembic numbered schemas in ``ledger_schema``; the last number stays there so that they refuse."""
_ONE_MIGRATION = Lock()  # alembic's `op` and `context` are global to the process


def migrate(connection: sa.Connection) -> None:
    """Create the tables of a new ledger or migrate those of an older one, inside the connection's transaction.

    The caller holds the ledger's lock: only one process migrates. Raises ``ledger.other_version`` if a later release
    made the ledger.
    """
    revision = _revision(connection)
    if revision == HEAD:
        return
    if revision is None:
        METADATA.create_all(connection)
        VERSION_TABLE.create(connection, checkfirst=True)
        connection.execute(sa.insert(VERSION_TABLE).values(version_num=HEAD))
        connection.execute(sa.insert(SCHEMA).values(version=LAST_NUMBER))
        return
    with _ONE_MIGRATION:
        _upgrade(connection, revision)
    connection.execute(sa.update(SCHEMA).values(version=LAST_NUMBER))


def script_config(connection: sa.Connection) -> Config:
    """Return alembic's configuration for this folder's revisions on a connection; no ``alembic.ini`` is read."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "forecast.ledger:migrations")
    return config


def _revision(connection: sa.Connection) -> str | None:
    """Return the ledger's revision, or None if the database has no ledger yet."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(SCHEMA.name):
        return None
    number = connection.execute(sa.select(SCHEMA.c.version)).scalar()
    if number is not None and number > LAST_NUMBER:
        raise _other_version(str(number))
    if inspector.has_table(VERSION_TABLE.name):
        return str(connection.execute(sa.select(VERSION_TABLE.c.version_num)).scalar_one())
    return None if number is None else f"schema_{number}"


def _upgrade(connection: sa.Connection, revision: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = script_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision not in known:
        raise _other_version(revision)
    if not sa.inspect(connection).has_table(VERSION_TABLE.name):
        command.stamp(config, revision)
    command.upgrade(config, "head")


def _other_version(found: str) -> StorageError:
    return StorageError(
        "ledger.other_version",
        f"the ledger was made by a later release (schema {found}, this release has {HEAD})",
        "use that release or a new home",
    )
