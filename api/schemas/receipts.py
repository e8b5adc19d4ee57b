"""Schemas of receipts."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from api.schemas.deprecated import WithTold
from forecast.ledger.receipts import IngestFinding, Receipt


class FindingInfo(IngestFinding, WithTold):
    """A problem that was found in the rows, and the action that was taken."""


class ReceiptInfo(Receipt):
    """The result of an ingestion, or of a dry run."""

    findings: tuple[FindingInfo, ...] = Field(default=())

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """Return a receipt as an answer."""
        return cls.model_validate(receipt.model_dump())
