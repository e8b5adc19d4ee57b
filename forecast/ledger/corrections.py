"""Corrections and revisions of forecasts in the ledger."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from forecast.ledger.database import Database
from forecast.ledger.issuance import ISSUANCES
from forecast.ledger.tables import CORRECTIONS, REVISIONS
from forecast.monitoring.correction import Correction
from forecast.monitoring.revision import Revision


class Corrections:
    """Corrections of quantiles between two trainings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, dataset: str, correction: Correction, now: datetime) -> int:
        """Store a correction unless it equals the model's latest; returns its number."""
        document = correction.model_dump_json()
        version = correction.model_version
        with self._database.as_owner() as connection:
            latest = connection.execute(_latest(dataset, version)).first()
            if latest is not None and latest.document == document:
                return int(latest.sequence)
            row = {"dataset": dataset, "model_version": version, "made_at": now, "document": document}
            made = connection.execute(sa.insert(CORRECTIONS).values(row).returning(CORRECTIONS.c.sequence))
            return int(made.scalar_one())

    def get(self, sequence: int | None) -> Correction | None:
        """Return the correction that an issuance names by number; ``None`` for ``None``."""
        if sequence is None:
            return None
        query = sa.select(CORRECTIONS.c.document).where(CORRECTIONS.c.sequence == sequence)
        with self._database.transaction() as connection:
            return Correction.model_validate_json(connection.execute(query).scalar_one())

    def latest(self, dataset: str, model_version: str) -> tuple[int, Correction] | None:
        """Return a model's latest correction and its number."""
        with self._database.transaction() as connection:
            row = connection.execute(_latest(dataset, model_version)).first()
        return None if row is None else (int(row.sequence), Correction.model_validate_json(row.document))


class Revisions:
    """How each forecast differs from the one before it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, dataset: str, limit: int = 50) -> dict[str, Revision]:
        """Return how the latest forecasts differed from those before them, by their identifiers, newest first."""
        query = (
            sa.select(REVISIONS.c.forecast_id, REVISIONS.c.document)
            .join(ISSUANCES, ISSUANCES.c.forecast_id == REVISIONS.c.forecast_id)
            .where(REVISIONS.c.dataset == dataset)
            .order_by(ISSUANCES.c.sequence.desc())
            .limit(limit)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return {forecast_id: Revision.model_validate_json(document) for forecast_id, document in rows}


def keep_revision(connection: sa.Connection, forecast_id: str, dataset: str, now: datetime, revision: Revision) -> None:
    """Keep how a forecast differs from the one before, within the transaction that makes it visible."""
    row = {"forecast_id": forecast_id, "dataset": dataset, "recorded_at": now, "document": revision.model_dump_json()}
    connection.execute(sa.insert(REVISIONS).values(row))


def _latest(dataset: str, model_version: str) -> sa.Select[tuple[int, str]]:
    return (
        sa.select(CORRECTIONS.c.sequence, CORRECTIONS.c.document)
        .where(CORRECTIONS.c.dataset == dataset, CORRECTIONS.c.model_version == model_version)
        .order_by(CORRECTIONS.c.sequence.desc())
        .limit(1)
    )
