"""The text of an alert is its message; live scores, corrections, revisions, alerts and keys exist."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "schema_5"
down_revision = "schema_4"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


def upgrade() -> None:
    """Create the tables that schema 4 may lack, and rename ``alerts.told`` to ``alerts.message``."""
    # Schema 4 gained these tables without a new number: a ledger of schema 4 may lack or have each of them.
    op.create_table(
        "scored_days",
        sa.Column("dataset", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("model_version", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("levels", sa.Text, nullable=False),
        sa.Column("ends", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "lead_scores",
        sa.Column("dataset", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("model_version", sa.String(64), primary_key=True),
        sa.Column("channel", sa.String(64), primary_key=True),
        sa.Column("sums", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "series_scores",
        sa.Column("dataset", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("model_version", sa.String(64), primary_key=True),
        sa.Column("series", sa.String(255), primary_key=True),
        sa.Column("channel", sa.String(64), primary_key=True),
        sa.Column("sums", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "forecast_scores",
        sa.Column("forecast_id", sa.String(40), primary_key=True),
        sa.Column("channel", sa.String(64), primary_key=True),
        sa.Column("last", sa.Integer, primary_key=True),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("origin", sa.DateTime, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("absolute", sa.Float, nullable=False),
        sa.Column("squared", sa.Float, nullable=False),
        sa.Column("pinball", sa.Float, nullable=False),
        sa.Column("inside", sa.Float, nullable=False),
        sa.Column("width", sa.Float, nullable=False),
        sa.Column("compared", sa.Float, nullable=False),
        sa.Column("naive", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_index("forecast_scores_day", "forecast_scores", ["dataset", "day", "model_version"], if_not_exists=True)
    op.create_index(
        "forecast_scores_origin", "forecast_scores", ["dataset", "model_version", "origin"], if_not_exists=True
    )
    op.create_table(
        "yardsticks",
        sa.Column("dataset", sa.String(64), primary_key=True),
        sa.Column("model_version", sa.String(64), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "corrections",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("corrections_model", "corrections", ["dataset", "model_version"], if_not_exists=True)
    op.create_table(
        "revisions",
        sa.Column("forecast_id", sa.String(40), primary_key=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_revisions_dataset", "revisions", ["dataset"], if_not_exists=True)
    op.create_table(
        "alerts",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False),
        sa.Column("raised_at", sa.DateTime, nullable=False),
        sa.Column("resolved_at", sa.DateTime),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("limit", sa.Float),
        sa.Column("raise_sent_at", sa.DateTime),
        sa.Column("resolve_sent_at", sa.DateTime),
        if_not_exists=True,
    )
    op.create_index(
        "alerts_one_open",
        "alerts",
        ["dataset", "kind", "subject"],
        unique=True,
        sqlite_where=sa.text("resolved_at IS NULL"),
        postgresql_where=sa.text("resolved_at IS NULL"),
        if_not_exists=True,
    )
    op.create_index("ix_alerts_dataset", "alerts", ["dataset"], if_not_exists=True)
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(12), primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("datasets", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("revoked_at", sa.DateTime),
        if_not_exists=True,
    )
    op.alter_column("alerts", "told", new_column_name="message")
