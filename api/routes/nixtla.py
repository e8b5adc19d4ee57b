"""The routes of Nixtla's API v2 for forecasts: ``NixtlaClient(base_url=...)`` works unchanged."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic_core import to_json

from api.answers.on_demand import check_request
from api.auth.scopes import reads_own
from api.dependencies import ServiceDep, default_dataset, find_dataset
from api.openapi.inline import inlined
from api.openapi.responses import problems
from api.protocols.nixtla import (
    NixtlaAnswer,
    NixtlaRequest,
    answered,
    bands,
    grouped,
    model_of,
    panel_of,
    refuse_unsupported,
)
from api.requests.bodies import read_body
from api.requests.json_body import parse
from api.requests.negotiation import JSON
from api.service import Service
from forecast.errors import NotFoundError
from forecast.installation import Dataset

router = APIRouter(tags=["nixtla"], dependencies=[reads_own])
_LONG_BODY = 256 * 2**10
_BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": inlined(NixtlaRequest)}}}}


@router.get("/validate_api_key", summary="Validate the key")
async def validate_api_key() -> dict[str, Any]:
    """Return 200: the access-control layer has checked the key already."""
    return {"detail": "the key is valid", "support": "see /docs"}


@router.get("/model_params", summary="Look-back and horizon of a model", responses=problems(404, 422, 503))
async def model_params(
    service: ServiceDep, model: Annotated[str, Query(max_length=200)] = "timegpt",
    freq: Annotated[str, Query(max_length=20)] = "",
) -> dict[str, Any]:  # fmt: skip
    """Return look-back and trained horizon; ``freq`` is validated only with a forecast."""
    name, version = model_of(model)
    manifest = (await service.champions.of(_dataset(name, service).name, version)).model.manifest
    return {"detail": {"input_size": manifest.lookback, "horizon": manifest.horizon, "freq": freq}}


@router.get("/v2/models", summary="Names of models")
async def models(service: ServiceDep) -> dict[str, Any]:
    """List the data sets, whose names are model names: their champions answer."""
    return {"models": [{"name": name} for name in service.installation.config.datasets]}


@router.post(
    "/v2/forecast",
    response_model=NixtlaAnswer,
    summary="Forecast series in Nixtla's format",
    responses=problems(404, 408, 413, 415, 422, 503),
    openapi_extra=_BODY,
)
async def forecast(request: Request, service: ServiceDep) -> Response:
    """Forecast every series; series that the model was not trained on are scaled by their own history."""
    body = await read_body(request)
    is_long = len(body) > _LONG_BODY
    names = service.champions.names()
    sent = await run_sync(parse, body, NixtlaRequest, names) if is_long else parse(body, NixtlaRequest, names)
    name, version = model_of(sent.model, sent.finetuned_model_id)
    dataset = _dataset(name, service)
    loaded = await service.champions.of(dataset.name, version)
    config, manifest = dataset.config, loaded.model.manifest
    refuse_unsupported(sent, config)
    edges = None if sent.level is None else bands(sent.level, manifest.quantiles)
    latest = service.latest.find(dataset.name)
    end = service.latest.now(dataset.name) if latest is None else latest.issuance.origin
    groups = grouped(sent, manifest)
    panels = [panel_of(group, sent, config, end) for group in groups]
    wanted = [check_request(panel, sent.h, dataset, loaded, service, only_trained=False) for panel in panels]
    made = await service.champions.forecast_all(loaded, [one.panel for one in wanted], sent.h)
    answer = answered(dict(zip(groups, made, strict=True)), len(sent.series.sizes), edges)
    return Response(to_json(answer), media_type=JSON, headers={"Cache-Control": "no-store"})


def _dataset(name: str | None, service: Service) -> Dataset:
    if name is None:
        return default_dataset(service)
    try:
        return find_dataset(name, service)
    except NotFoundError as error:
        raise NotFoundError("dataset.unknown", "the data set of model does not exist", error.remedy) from None
