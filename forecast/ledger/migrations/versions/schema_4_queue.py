"""Runs wait in a queue and are attempted by workers; forecasts carry their provenance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "schema_4"
down_revision = "schema_3"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


def upgrade() -> None:
    """Create the tables of the queue, and add columns to ``runs`` and ``issuances``."""
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("host", sa.String(128), nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("ended_at", sa.DateTime),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("peak_memory_mb", sa.Float),
        if_not_exists=True,
    )
    op.create_table(
        "events",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("run_id", sa.BigInteger),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_events_run_id", "events", ["run_id"], if_not_exists=True)
    op.create_table(
        "jobs",
        sa.Column("name", sa.String(160), primary_key=True),
        sa.Column("document", sa.Text),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.Column("timing", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(160), nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(160), primary_key=True),
        sa.Column("machine", sa.String(128), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("heartbeat_at", sa.DateTime, nullable=False),
        sa.Column("trainings", sa.Integer, nullable=False),
        sa.Column("others", sa.Integer, nullable=False),
        if_not_exists=True,
    )
    for column in (
        sa.Column("cause", sa.String(16)),
        sa.Column("due_at", sa.DateTime),
        sa.Column("document", sa.Text),
        sa.Column("host", sa.String(128)),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("not_before", sa.DateTime),
        sa.Column("started_at", sa.DateTime),
        sa.Column("heartbeat_at", sa.DateTime),
        sa.Column("cancel_asked_at", sa.DateTime),
        sa.Column("coalesced_into", sa.Integer),
        sa.Column("progress", sa.Float),
        sa.Column("doing", sa.Text),
        sa.Column("peak_memory_mb", sa.Float),
        sa.Column("tracking_run", sa.String(64)),
        sa.Column("forecast_id", sa.String(40)),
        sa.Column("log", sa.Text),
    ):
        op.add_column("runs", column)
    # No process of the earlier release is alive, and its states are not those of this one.
    op.execute("UPDATE runs SET state = 'failed', reason = 'it ran under an earlier release' WHERE state = 'running'")
    op.execute("UPDATE runs SET state = 'failed' WHERE state = 'abandoned'")
    op.create_index("runs_due", "runs", ["job", "due_at"])
    op.create_index(
        "runs_one_running",
        "runs",
        ["job"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("runs_state", "runs", ["state"])
    op.add_column("issuances", sa.Column("provenance", sa.Text))
    op.add_column("issuances", sa.Column("backfilled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("issuances", sa.Column("correction", sa.BigInteger))
