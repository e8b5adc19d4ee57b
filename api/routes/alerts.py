"""``GET /v1/datasets/{dataset}/alerts``: what is wrong and what was."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.routes.forecasts import problems

router = APIRouter(prefix="/v1/datasets", tags=["accuracy"], dependencies=[reads])


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


@router.get("/{dataset}/alerts", summary="What is wrong and what was", responses=problems(404, 422, 503))
def list_alerts(dataset: DatasetDep, query: Annotated[AlertQuery, Query()], service: ServiceDep) -> AlertList:
    """Tell the alerts that the step `score` raised by the rules of the job file."""
    found = service.installation.ledger.alerts.find(dataset.name, open_only=query.open, limit=query.limit)
    return AlertList(alerts=[AlertInfo.model_validate(one) for one in found])
