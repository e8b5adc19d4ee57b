"""``GET /v1/datasets/{dataset}/forecast``: the one route that the rest of the service exists for."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.answers import rolling
from api.asgi.shortcut import Ready
from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.errors.problems import MEDIA_TYPE
from api.forecasts import encoding
from api.forecasts.selection import Selection, instant, select
from api.requests.negotiation import FORMATS, JSON, TABLES, by_content, conditional, matches, preferred
from api.schemas.forecasts import ForecastAnswer, ForecastQuery, Problem, RollingAnswer
from api.service import Service
from api.state.issued import IssuedForecast, age_of
from forecast.config.dataset import DatasetConfig
from forecast.installation import Dataset

_KEPT_BYTES = 2 * 2**20
_LONG_POINTS = 5_000

router = APIRouter(prefix="/v1/datasets", tags=["forecasts"], dependencies=[reads])


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe problem documents for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


@router.get(
    "/{dataset}/forecast",
    response_model=ForecastAnswer | RollingAnswer,
    summary="The latest issued forecast, the one known at a time, or the rolling one at a fixed lead",
    responses={
        200: {"content": TABLES},
        304: {"description": "The client has it already."},
        **problems(404, 406, 422, 503),
    },
)
async def read_forecast(
    request: Request, dataset: DatasetDep, query: Annotated[ForecastQuery, Query()], service: ServiceDep
) -> Response:
    """Answer from memory; only a past forecast, a recursive one or a part not asked for lately takes a thread."""
    media = preferred(request.headers.get("accept"), FORMATS)
    as_of = instant(query.as_of)
    if query.lead_time is not None:
        return await _rolling(request, dataset, query, service, media)
    issued = await service.known_at(dataset.name, as_of, query.model)
    part = select(query, issued)
    now = service.latest.now(dataset.name)
    age, stale = age_of(issued, dataset.config, now if as_of is None else min(as_of, now))
    etag = _etag(issued, part, media, stale=stale)
    if matches(request, etag):
        service.metrics.answered("not_modified")
        return conditional(request, b"", media, etag)
    key = (issued.issuance.forecast_id, part, media)
    body = service.answers.get(key)
    service.metrics.answered("memory" if body is not None else "computed")
    if body is None:
        reached = await service.extensions.reach(issued, part.horizon)
        is_long = part.points > _LONG_POINTS or part.horizon > issued.issuance.horizon
        limiter = service.long_turn() if is_long else None
        body = await run_sync(_encoded, reached, part, media, dataset.config, limiter=limiter)
        if len(body) <= _KEPT_BYTES:  # or a few long answers would push out everybody's short ones
            service.answers.keep(key, body, len(body))
    if media != JSON:
        return conditional(request, body, media, etag, provenance(issued, age, stale=stale))
    if as_of is None and query.model is None and len(body) <= _KEPT_BYTES:
        tags = [_etag(issued, part, media, stale=stale) for stale in (False, True)]
        service.ready.keep(request.scope, Ready(issued, dataset.config, body, *tags))
    return conditional(request, encoding.with_age(body, age, stale=stale), JSON, etag)


async def _rolling(request: Request, dataset: Dataset, query: ForecastQuery, service: Service, media: str) -> Response:
    body = await run_sync(rolling.rolling_answer, dataset, query, service, media, limiter=service.long_answers)
    return by_content(request, body, media)


def _encoded(forecast: IssuedForecast, part: Selection, media: str, config: DatasetConfig) -> bytes:
    if media == JSON:
        return encoding.json_rest(forecast, part, config)
    return encoding.encoded(encoding.table(forecast, part), media)


def _etag(issued: IssuedForecast, part: Selection, media: str, *, stale: bool) -> str:
    # Weak: the age is told anew each time, and means the same as long as the forecast did not become stale.
    query = hashlib.sha256(repr((part, media, stale)).encode()).hexdigest()[:16]
    return f'W/"{issued.issuance.forecast_id}-{query}"'


def provenance(issued: IssuedForecast, age: int, *, stale: bool) -> dict[str, str]:
    """Return what a table cannot tell of its forecast, as headers."""
    issuance = issued.issuance
    return {
        "Forecast-Id": issuance.forecast_id,
        "Forecast-Issued-At": issuance.issued_at.isoformat(),
        "Forecast-Data-Version": str(issuance.data_version),
        "Forecast-Model-Version": issuance.model_version,
        "Forecast-Age": str(age),
        "Forecast-Stale": str(stale).lower(),
    }
