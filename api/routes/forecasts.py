"""``GET /v1/datasets/{dataset}/forecast``: issued forecasts."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.answers.rolling import rolling_answer
from api.asgi.shortcut import words_of
from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.forecasts.encoding import LONG_POINTS, encode, entity_tag, provenance, with_age
from api.forecasts.selection import instant, select
from api.openapi.responses import problems
from api.requests.negotiation import FORMATS, JSON, TABLES, by_content, conditional, matches, preferred
from api.schemas.forecasts import ForecastAnswer, ForecastQuery, RollingAnswer
from api.state.answers import LARGEST_KEPT, EncodedForecast
from api.state.issued import age_of

router = APIRouter(prefix="/v1/datasets", tags=["forecasts"], dependencies=[reads])


@router.get(
    "/{dataset}/forecast",
    response_model=ForecastAnswer | RollingAnswer,
    summary="The latest issued forecast, the one known at a time, or the rolling one at a fixed lead",
    responses={
        200: {"content": TABLES},
        304: {"description": "The client has this answer already."},
        **problems(404, 406, 422, 503),
    },
)
async def read_forecast(
    request: Request, dataset: DatasetDep, query: Annotated[ForecastQuery, Query()], service: ServiceDep
) -> Response:
    """Return an issued forecast.

    The answer comes from memory, except for past forecasts, steps beyond the trained horizon, and selections that were
    not requested lately.
    """
    media = preferred(request.headers.get("accept"), FORMATS)
    as_of = instant(query.as_of)
    if query.lead_time is not None:
        body = await run_sync(rolling_answer, dataset, query, service, media, limiter=service.long_answers)
        return by_content(request, body, media)
    issued = await service.known_at(dataset.name, as_of, query.model)
    part, now = select(query, issued), service.latest.now(dataset.name)
    age, stale = age_of(issued, dataset.config, now if as_of is None else min(as_of, now))
    fresh_tag, stale_tag = (entity_tag(issued, part, media, stale=stale) for stale in (False, True))
    tag = stale_tag if stale else fresh_tag
    if matches(request, tag):
        service.metrics.answered("not_modified")
        return conditional(request, b"", media, tag)
    key = (issued.issuance.forecast_id, part, media)
    found = service.answers.get(key)
    service.metrics.answered("computed" if found is None else "memory")
    if found is None:
        is_prolonged = part.horizon > issued.horizon
        whole = await service.long_horizons.reach(issued, part.horizon) if is_prolonged else issued
        limiter = service.long_turn() if is_prolonged or part.points > LONG_POINTS else None
        body = await run_sync(encode, whole, part, media, dataset.config, limiter=limiter)
        found = EncodedForecast(issued, dataset.config, body, fresh_tag, stale_tag)
        if len(body) <= LARGEST_KEPT:
            service.answers.keep(key, found, len(body))
    if media != JSON:
        return conditional(request, found.body, media, tag, provenance(issued, age, stale=stale))
    if as_of is None and query.model is None and len(found.body) <= LARGEST_KEPT:
        words = words_of(request.scope)
        service.answers.keep(words, found, len(found.body) + len(words[1]))
    return conditional(request, with_age(found.body, age, stale=stale), JSON, tag)
