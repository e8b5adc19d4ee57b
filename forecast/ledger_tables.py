"""The ledger's tables, and how those of an earlier release become these."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import sqlalchemy as sa

METADATA = sa.MetaData()
_BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only an INTEGER key


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time, stored without its zone because SQLite has none."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Take the zone off."""
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Put the zone back."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(160), nullable=False),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("logical_date", sa.String(40), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("claimed_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("pid", sa.Integer),
    sa.Column("reason", sa.Text),
    sa.UniqueConstraint("job", "logical_date"),
)

CHAMPIONS = sa.Table(
    "champions",
    METADATA,
    sa.Column("sequence", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("model_name", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("folder", sa.String(256), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("promoted_at", UtcTime, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
)

ISSUANCES = sa.Table(
    "issuances",
    METADATA,
    sa.Column("sequence", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("forecast_id", sa.String(40), nullable=False, unique=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("issued_at", UtcTime, nullable=False),
    sa.Column("origin", UtcTime, nullable=False),
    sa.Column("horizon", sa.Integer, nullable=False),
    sa.Column("quantiles", sa.Text, nullable=False),
    sa.Column("data_version", sa.Integer, nullable=False),
    sa.Column("model_name", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("model_folder", sa.String(256), nullable=False),
    sa.Column("imputed_fraction", sa.Float, nullable=False),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("newest_observed", UtcTime),
)

RECEIPTS = sa.Table(
    "receipts",
    METADATA,
    sa.Column("sequence", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("data_version", sa.Integer),
    sa.Column("document", sa.Text, nullable=False),
)
"""One row per ingestion; the document is a :class:`forecast.receipts.Receipt` as JSON."""

NIGHTS = sa.Table(
    "nights",
    METADATA,
    sa.Column("sequence", _BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("dataset", sa.String(64), nullable=False, index=True),
    sa.Column("recorded_at", UtcTime, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
"""One row per night that compared models; the document is a :class:`forecast.nights.Night` as JSON."""

SCHEMA = sa.Table("ledger_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))
SCHEMA_VERSION = 3
"""Counted up with every change of a table above, so that a ledger of another release is refused, not misread."""

CLOCKS = sa.Table(
    "clocks",
    METADATA,
    sa.Column("dataset", sa.String(64), primary_key=True),
    sa.Column("position", UtcTime, nullable=False),
    sa.Column("stopped", sa.Boolean, nullable=False, default=False),
)

MIGRATIONS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {1: ("ALTER TABLE issuances ADD COLUMN newest_observed TIMESTAMP",), 2: ()}
)
"""By schema version: what leads to the next one, beside tables that are new."""
