"""Records of the nights that compared models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "schema_3"
down_revision = "schema_2"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


def upgrade() -> None:
    """Create ``nights``."""
    op.create_table(
        "nights",
        sa.Column("sequence", _KEY, primary_key=True, autoincrement=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_nights_dataset", "nights", ["dataset"], if_not_exists=True)
