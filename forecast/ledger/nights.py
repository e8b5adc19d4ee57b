"""Records of nights in the ledger."""

from __future__ import annotations

import sqlalchemy as sa

from forecast.evaluation.night import NightRecord
from forecast.ledger.champions import Champion, crown
from forecast.ledger.database import Database
from forecast.ledger.tables import (
    NIGHTS,
)


class Nights:
    """The records of nights."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, night: NightRecord, promoted: Champion | None = None) -> None:
        """Store the record of a night and make the promoted model champion: both or neither."""
        row = {"dataset": night.dataset, "recorded_at": night.recorded_at, "document": night.model_dump_json()}
        with self._database.as_owner() as connection:
            connection.execute(sa.insert(NIGHTS).values(row))
            if promoted is not None:
                crown(connection, promoted)

    def latest(self, dataset: str, limit: int = 1) -> list[NightRecord]:
        """Return the latest nights of a data set, newest first."""
        query = (
            sa.select(NIGHTS.c.document)
            .where(NIGHTS.c.dataset == dataset)
            .order_by(NIGHTS.c.sequence.desc())
            .limit(limit)
        )
        with self._database.transaction() as connection:
            return [NightRecord.model_validate_json(text) for text in connection.execute(query).scalars()]
