"""Alembic's environment: it runs the revisions on a connection of :func:`forecast.ledger.migrations.migrate`.

Alembic executes this file; it is not importable elsewhere. It configures no logging and reads no ``alembic.ini``.
"""

from __future__ import annotations

from alembic import context

from forecast.ledger.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE.name)
with context.begin_transaction():
    context.run_migrations()
