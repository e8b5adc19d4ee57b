"""``GET /v1/datasets/{dataset}/alerts``: open and resolved alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.openapi.responses import problems
from api.schemas.alerts import AlertInfo, AlertList, AlertQuery

router = APIRouter(prefix="/v1/datasets", tags=["accuracy"], dependencies=[reads])


@router.get("/{dataset}/alerts", summary="Open and resolved alerts", responses=problems(404, 422, 503))
def list_alerts(dataset: DatasetDep, query: Annotated[AlertQuery, Query()], service: ServiceDep) -> AlertList:
    """Return the alerts that the step `score` raised by the alert rules of the config file."""
    found = service.installation.ledger.alerts.find(dataset.name, open_only=query.open, limit=query.limit)
    return AlertList(alerts=[AlertInfo.model_validate(one) for one in found])
