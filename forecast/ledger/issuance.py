"""The record of an issued forecast and the table that holds it, side by side: a new column begins here.

The other files of a new column: a migration in ``migrations/versions``, the value in
``pipelines/forecasting/issuance.py``, and the field of the REST answer in ``api/schemas/forecasts.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from forecast.ledger.tables import BIG_KEY, METADATA, UtcTime
from forecast.provenance import Provenance


@dataclass(frozen=True, slots=True)
class Issuance:
    """One forecast of all series and channels of a data set, as it was issued."""

    forecast_id: str
    dataset: str
    issued_at: datetime
    """On the data set's clock."""
    origin: datetime
    """Time of the first forecast step."""
    horizon: int
    quantiles: tuple[float, ...]
    data_version: int
    """Version of the lake's table that the forecast was computed from."""
    model_name: str
    model_version: str
    model_folder: str
    imputed_fraction: float
    """Share of the look-back's values that were imputed."""
    recorded_at: datetime
    """On the machine's clock."""
    newest_observed: datetime | None = None
    """Time of the newest observed target value, of the series and target that are furthest behind."""
    provenance: Provenance | None = None
    """Digests and versions behind it; ``None`` if an earlier release issued it."""
    backfilled: bool = False
    """Whether it was reissued for the past instant ``issued_at``; such a forecast is never served."""
    correction: int | None = None
    """Number of the correction that moved its quantiles, see ``Corrections.get``; ``None`` if none did."""
    sequence: int = 0


ISSUANCES = sa.Table(
    "issuances",
    METADATA,
    sa.Column("sequence", BIG_KEY, primary_key=True, autoincrement=True),
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
    sa.Column("provenance", sa.Text),
    sa.Column("backfilled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("correction", sa.BigInteger),
)
"""One row per issued forecast; ``provenance`` is a :class:`forecast.provenance.Provenance` as JSON, null where an
earlier release issued it. A ``backfilled`` forecast was made afterwards for a past instant and is never served."""
