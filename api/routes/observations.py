"""``POST /v1/datasets/{dataset}/observations``: rows that are pushed, and a dry run of the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict

from api.auth.scopes import reads, writes
from api.dependencies import DatasetDep, ServiceDep
from api.openapi.responses import problems
from api.requests.bodies import read_body
from api.service import Service
from forecast.installation import Dataset
from forecast.ledger.receipts import Receipt
from pipelines.ingestion.ingest import ingest, validate
from pipelines.sources.request_body import CONTENT_TYPES, from_body


class _NoParameters(BaseModel):
    """A parameter that does nothing would pass for one that does."""

    model_config = ConfigDict(extra="forbid")


_Nothing = Annotated[_NoParameters, Query()]
router = APIRouter(prefix="/v1/datasets", tags=["observations"], dependencies=[reads])
_BODY = {"requestBody": {"required": True, "content": {media: {} for media in CONTENT_TYPES}}}


@router.post(
    "/{dataset}/observations",
    summary="Push rows",
    responses=problems(404, 408, 409, 413, 415, 422, 503),
    openapi_extra=_BODY,
    dependencies=[writes],
)
async def push(request: Request, dataset: DatasetDep, service: ServiceDep, _none: _Nothing) -> Receipt:
    """Check rows and merge what is new: pushing the same rows again changes nothing."""
    body = await read_body(request)
    return await run_sync(_receipt, ingest, body, request.headers.get("content-type", ""), dataset, service)


@router.post(
    "/{dataset}/validate",
    summary="Check rows without writing them",
    responses=problems(404, 408, 413, 415, 422, 503),
    openapi_extra=_BODY,
    dependencies=[writes],
)
async def check(request: Request, dataset: DatasetDep, service: ServiceDep, _none: _Nothing) -> Receipt:
    """Answer the receipt that pushing these rows would give; nothing is written."""
    body = await read_body(request)
    return await run_sync(_receipt, validate, body, request.headers.get("content-type", ""), dataset, service)


@router.get("/{dataset}/receipts", summary="Receipts of the last ingestions", responses=problems(404, 422, 503))
async def receipts(
    dataset: DatasetDep, service: ServiceDep, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> list[Receipt]:
    """Tell what came in lately, newest first, and what was wrong with it."""
    return await run_sync(service.installation.ledger.receipts.latest, dataset.name, limit)


def _receipt(take: Callable[..., Receipt], body: bytes, media: str, dataset: Dataset, service: Service) -> Receipt:
    batch = from_body(body, media, dataset.config, dataset.name)
    return take(dataset.name, service.installation, [batch], echo=False)
