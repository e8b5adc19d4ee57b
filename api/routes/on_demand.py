"""``POST /v1/forecasts``: a forecast from history that the client sends."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.routing import Route

from api.answers.on_demand import OnDemandQuery, OnDemandRequest, forecast, read_json, read_rows
from api.auth.scopes import reads_own
from api.dependencies import ServiceDep
from api.errors.validation import first_mistake
from api.forecasts.encoding import LONG_POINTS, encode, provenance, with_age
from api.forecasts.selection import Selection, levels, zone
from api.openapi.inline import inlined
from api.openapi.responses import problems
from api.requests.bodies import read_body
from api.requests.negotiation import FORMATS, JSON, TABLES, preferred
from api.schemas.forecasts import ForecastAnswer
from api.state.issued import IssuedForecast
from forecast.config.dataset import DatasetConfig
from forecast.errors import ConfigError
from pipelines.sources.request_body import CONTENT_TYPES

router = APIRouter(prefix="/v1/forecasts", tags=["forecasts"], dependencies=[reads_own])
_SCHEMA = inlined(OnDemandRequest)
_QUERY = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": "Only with a body that is not JSON.",
    }
    for name, schema in inlined(OnDemandQuery)["properties"].items()
]
_DOCUMENTED = {
    "parameters": _QUERY,
    "requestBody": {
        "required": True,
        "content": {media: {"schema": _SCHEMA} if media == JSON else {} for media in CONTENT_TYPES},
    },
}


@router.post(
    "",
    response_model=ForecastAnswer,
    summary="Forecast from the client's history",
    responses={200: {"content": TABLES}, **problems(404, 406, 408, 413, 415, 422, 503)},
    openapi_extra=_DOCUMENTED,
)
async def create_forecast(request: Request, service: ServiceDep) -> Response:
    """Return a forecast of the history in the body; nothing is stored. Concurrent requests are batched."""
    media = preferred(request.headers.get("accept"), FORMATS)
    sent = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    body = await read_body(request)
    query: OnDemandQuery
    if sent == JSON:
        if request.query_params:
            raise ConfigError(
                "parameter.not_with_json", "query parameters have no effect with JSON", "put them into the body"
            )
        query, checked = await read_json(body, service)
    else:
        query = _query(request)
        checked = await read_rows(body, request.headers["content-type"], query, service)
    manifest = checked.loaded.model.manifest
    part = Selection(
        series=tuple(range(len(checked.panel.series))),
        channels=tuple(range(len(manifest.targets))),
        horizon=checked.horizon,
        levels=levels([repr(level) for level in query.quantiles], manifest.quantiles),
        zone=zone(query.tz).key,
    )
    made = await forecast(checked, service)
    if part.points > LONG_POINTS or media != JSON:
        content = await run_sync(_encoded, made, part, media, checked.dataset.config, limiter=service.long_answers)
    else:
        content = _encoded(made, part, media, checked.dataset.config)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if media != JSON:
        headers |= provenance(made, 0, stale=False)
        del headers["Forecast-Data-Version"]
    return Response(content, media_type=media, headers=headers)


async def _direct(request: Request) -> Response:
    return await create_forecast(request, request.app.state.service)


direct = Route(router.prefix, _direct, methods=["POST"], include_in_schema=False)
"""The same route without FastAPI, whose parameter handling takes a tenth of the time of a forecast."""


def _encoded(made: IssuedForecast, part: Selection, media: str, config: DatasetConfig) -> bytes:
    body = encode(made, part, media, config, is_sent=True)
    return with_age(body, 0, stale=False) if media == JSON else body


def _query(request: Request) -> OnDemandQuery:
    given: dict[str, Any] = dict(request.query_params)
    if "quantiles" in given:
        given["quantiles"] = [word for item in request.query_params.getlist("quantiles") for word in item.split(",")]
    try:
        return OnDemandQuery.model_validate(given)
    except ValidationError as error:
        raise first_mistake(error, OnDemandQuery) from None
