"""Receipts of ingestions: what the user reads and the ledger stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

import sqlalchemy as sa
from pydantic import Field

from forecast.ledger.database import Database
from forecast.ledger.tables import RECEIPTS
from forecast.strict import StrictModel
from forecast.vocabulary import Action


class IngestFinding(StrictModel):
    """One problem in the rows, and the action taken."""

    code: str
    action: Action
    count: int
    message: str
    first: tuple[str, ...] = ()
    """The first few places, as ``rows.csv row 7: east 2024-01-01 05:00 load=-3``."""
    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({"told": "message"})


class Receipt(StrictModel):
    """The result of one ingestion or of a dry run."""

    dataset: str
    sources: tuple[str, ...]
    """Names of the files, tables or bodies that were read."""
    digest: str
    """SHA-256 over what was read."""
    rows: int
    """Rows that came through the checks."""
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    outdated: int = 0
    """Rows that lost to a newer version that is stored already; the history keeps them."""
    quarantined: int = 0
    """Rows that went into quarantine, with the reason."""
    data_version: int | None = None
    """Version of the table afterwards; None if nothing was to be written."""
    series: tuple[str, ...] = ()
    first: datetime | None = None
    last: datetime | None = None
    recorded_at: datetime
    cursor: str | None = None
    """SQL sources: where the next read continues."""
    findings: tuple[IngestFinding, ...] = Field(default=())


class Receipts:
    """Receipts of ingestions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, receipt: Receipt) -> None:
        """Keep the receipt of an ingestion."""
        row = {
            "dataset": receipt.dataset, "recorded_at": receipt.recorded_at, "data_version": receipt.data_version,
            "document": receipt.model_dump_json(),
        }  # fmt: skip
        with self._database.transaction() as connection:
            connection.execute(sa.insert(RECEIPTS).values(row))

    def latest(self, dataset: str, limit: int = 50) -> list[Receipt]:
        """Return the latest receipts of a data set, newest first."""
        query = (
            sa.select(RECEIPTS.c.document)
            .where(RECEIPTS.c.dataset == dataset)
            .order_by(RECEIPTS.c.sequence.desc())
            .limit(limit)
        )
        with self._database.transaction() as connection:
            return [Receipt.model_validate_json(text) for text in connection.execute(query).scalars()]

    def newest_change(self, dataset: str) -> int | None:
        """Return the data version of the latest ingestion that brought new or changed rows."""
        query = (
            sa.select(RECEIPTS.c.sequence, RECEIPTS.c.data_version, RECEIPTS.c.document)
            .where(RECEIPTS.c.dataset == dataset, RECEIPTS.c.data_version.is_not(None))
            .order_by(RECEIPTS.c.sequence.desc())
            .limit(50)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
            while rows:  # any number of ingestions may have brought nothing since
                for _, version, text in rows:
                    receipt = json.loads(text)
                    if receipt.get("new") or receipt.get("changed"):
                        return int(version)
                rows = connection.execute(query.where(RECEIPTS.c.sequence < rows[-1].sequence)).all()
        return None
