"""Schemas of alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.deprecated import WithTold


class AlertQuery(BaseModel):
    """Parameters of a list of alerts."""

    model_config = ConfigDict(extra="forbid")

    open: Annotated[bool, Field(description="Open alerts only.")] = False
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class AlertInfo(WithTold):
    """A problem that an alert rule found. Times are of the machine's clock."""

    model_config = ConfigDict(from_attributes=True)

    sequence: int = Field(description="Number of the alert; it never changes.")
    kind: str = Field(description="error, coverage, skill, regression, drift, stale or run_failed.")
    subject: str = Field(description="The channel, job or part that the alert concerns.")
    raised_at: datetime
    resolved_at: datetime | None = Field(description="Null while the alert is open.")
    value: float | None = Field(description="The measured value when the alert was raised.")
    limit: float | None = Field(description="The limit of the rule.")


class AlertList(BaseModel):
    """Alerts of one data set, newest first."""

    alerts: list[AlertInfo]
