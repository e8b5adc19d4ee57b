"""What came of bringing rows in, as the user is told and the ledger keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

from pydantic import Field

from forecast.strict import StrictModel
from forecast.vocabulary import Action


class IngestFinding(StrictModel):
    """Something that was wrong, and what was done about it."""

    code: str
    action: Action
    count: int
    message: str
    first: tuple[str, ...] = ()
    """The first few places, as ``rows.csv row 7: east 2024-01-01 05:00 load=-3``."""
    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({"told": "message"})


class Receipt(StrictModel):
    """What came of one ingestion, or would have come of it."""

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
    """Rows that were put aside, with the reason."""
    data_version: int | None = None
    """Version of the table afterwards; None if nothing was to be written."""
    series: tuple[str, ...] = ()
    first: datetime | None = None
    last: datetime | None = None
    recorded_at: datetime
    cursor: str | None = None
    """sql: where the next reading goes on."""
    findings: tuple[IngestFinding, ...] = Field(default=())
