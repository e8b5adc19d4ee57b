"""``POST /v1/datasets/{dataset}/observations``: push rows, or validate them without writing."""

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
from api.schemas.receipts import ReceiptInfo
from forecast.installation import Dataset
from forecast.ledger.receipts import Receipt
from pipelines.ingestion.ingest import ingest, validate
from pipelines.sources.request_body import CONTENT_TYPES, from_body


class _NoParameters(BaseModel):
    """Refuses every parameter: one that has no effect would look as if it had."""

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
async def push(request: Request, dataset: DatasetDep, _none: _Nothing) -> ReceiptInfo:
    """Validate rows and store the new ones. Idempotent: rows already stored are left unchanged."""
    body = await read_body(request)
    return await run_sync(_receipt, ingest, body, request.headers.get("content-type", ""), dataset)


@router.post(
    "/{dataset}/validate",
    summary="Validate rows without storing them",
    responses=problems(404, 408, 413, 415, 422, 503),
    openapi_extra=_BODY,
    dependencies=[writes],
)
async def check(request: Request, dataset: DatasetDep, _none: _Nothing) -> ReceiptInfo:
    """Return the receipt that pushing these rows would give; nothing is stored."""
    body = await read_body(request)
    return await run_sync(_receipt, validate, body, request.headers.get("content-type", ""), dataset)


@router.get("/{dataset}/receipts", summary="Receipts of the latest ingestions", responses=problems(404, 422, 503))
async def receipts(
    dataset: DatasetDep, service: ServiceDep, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> list[ReceiptInfo]:
    """Return receipts, newest first, each with the findings in its rows."""
    found = await run_sync(service.installation.ledger.receipts.latest, dataset.name, limit)
    return [ReceiptInfo.of(receipt) for receipt in found]


def _receipt(take: Callable[..., Receipt], body: bytes, media: str, dataset: Dataset) -> ReceiptInfo:
    batch = from_body(body, media, dataset.config, dataset.name)
    return ReceiptInfo.of(take(dataset, [batch], echo=False))
