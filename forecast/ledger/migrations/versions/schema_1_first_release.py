"""The first release: runs, champions, issuances and replay clocks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "schema_1"
down_revision = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "runs",
        sa.Column("run_id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("logical_date", sa.String(40), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("claimed_at", sa.DateTime, nullable=False),
        sa.Column("ended_at", sa.DateTime),
        sa.Column("pid", sa.Integer),
        sa.Column("reason", sa.Text),
        sa.UniqueConstraint("job", "logical_date"),
        if_not_exists=True,
    )
    op.create_table(
        "champions",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("model_name", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("folder", sa.String(256), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("promoted_at", sa.DateTime, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_champions_dataset", "champions", ["dataset"], if_not_exists=True)
    op.create_table(
        "issuances",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("forecast_id", sa.String(40), nullable=False, unique=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.DateTime, nullable=False),
        sa.Column("origin", sa.DateTime, nullable=False),
        sa.Column("horizon", sa.Integer, nullable=False),
        sa.Column("quantiles", sa.Text, nullable=False),
        sa.Column("data_version", sa.Integer, nullable=False),
        sa.Column("model_name", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("model_folder", sa.String(256), nullable=False),
        sa.Column("imputed_fraction", sa.Float, nullable=False),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_issuances_dataset", "issuances", ["dataset"], if_not_exists=True)
    op.create_table(
        "clocks",
        sa.Column("dataset", sa.String(64), primary_key=True),
        sa.Column("position", sa.DateTime, nullable=False),
        sa.Column("stopped", sa.Boolean, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "ledger_schema",
        sa.Column("version", sa.Integer, primary_key=True),
        if_not_exists=True,
    )
