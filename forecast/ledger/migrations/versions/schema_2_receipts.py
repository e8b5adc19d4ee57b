"""Receipts of ingestions, and the newest observation that a forecast knew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "schema_2"
down_revision = "schema_1"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


def upgrade() -> None:
    """Create ``receipts`` and add ``issuances.newest_observed``."""
    op.create_table(
        "receipts",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
        sa.Column("data_version", sa.Integer),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_receipts_dataset", "receipts", ["dataset"], if_not_exists=True)
    op.add_column("issuances", sa.Column("newest_observed", sa.DateTime))
