"""Schemas of alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class AlertQuery(BaseModel):
    """Which alerts are asked for."""

    model_config = ConfigDict(extra="forbid")

    open: Annotated[bool, Field(description="Only what is still so.")] = False
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class AlertInfo(BaseModel):
    """Something that was wrong from when to when, on the machine's clock."""

    model_config = ConfigDict(from_attributes=True)

    sequence: int = Field(description="Its number, which never changes.")
    kind: str = Field(description="error, coverage, skill, regression, drift, stale or run_failed.")
    subject: str
    raised_at: datetime
    resolved_at: datetime | None = Field(description="Null as long as it is so.")
    message: str
    value: float | None = Field(description="When it was raised.")
    limit: float | None


class AlertList(BaseModel):
    """Alerts of one data set, newest first."""

    alerts: list[AlertInfo]
