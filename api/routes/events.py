"""``/v1/events`` and ``/v1/runs/{run}/events``: server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from api.auth.scopes import reads
from api.dependencies import ServiceDep, find_dataset
from api.errors.suggestions import suggest
from api.events import streams
from api.openapi.responses import problems
from api.requests.negotiation import preferred
from api.schemas.events import KINDS, EventsQuery
from api.schemas.jobs import LARGEST_NUMBER
from api.state.event_feed import Wanted
from forecast.errors import ConfigError

router = APIRouter(prefix="/v1", tags=["events"], dependencies=[reads])

_USUAL = frozenset(KINDS) - {"progress"}
_LastEventId = Annotated[
    str | None, Header(description="Id of the last event received: the stream continues after it.", max_length=64)
]
_HAPPENED = """id: 41
event: forecast
data: {"at":"2026-05-01T10:00:31Z","kind":"forecast","dataset":"nyc-airports","run_id":null,\
"details":{"forecast_id":"67ec2cbaeefd46d3a960cdace45fb39f","model_version":"linear-20131102T023000-00534b"}}

"""
_RAN = """id: 39-0
event: run
data: {"at":"2026-05-01T10:00:01Z","kind":"run","dataset":"nyc-airports","run_id":17,\
"details":{"state":"running","reason":null}}

id: 39-35
event: log
data: {"lines":["linear: started","linear: done in 5.1 s"]}

id: 42-96-end
event: run
data: {"at":"2026-05-01T10:00:41Z","kind":"run","dataset":"nyc-airports","run_id":17,\
"details":{"state":"succeeded","reason":"24 new and 0 changed rows"}}

"""
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["data"],
}
"""One event of a stream; OpenAPI's ``itemSchema``, as FastAPI describes streams too."""


def _streams(example: str) -> dict[int | str, dict[str, Any]]:
    content = {streams.MEDIA_TYPE: {"itemSchema": _EVENT, "example": example}}
    return {
        200: {"description": "Events, until the client disconnects.", "content": content},
        **problems(404, 406, 422, 503),
    }


@router.get("/events", summary="Follow events", response_class=Response, responses=_streams(_HAPPENED))
async def follow_events(
    request: Request,
    query: Annotated[EventsQuery, Query()],
    service: ServiceDep,
    last_event_id: _LastEventId = None,
) -> Response:
    """Stream new forecasts, promotions, alerts and states of runs, of all data sets or some."""
    preferred(request.headers.get("accept"), (streams.MEDIA_TYPE,))
    datasets = [find_dataset(name, service).name for name in _words(query.dataset)]
    kinds = _words(query.kinds)
    for word in kinds:
        if word not in KINDS:
            raise ConfigError("kinds.unknown", "the kind of event does not exist", suggest(word, KINDS))
    wanted = Wanted(datasets=frozenset(datasets), kinds=frozenset(kinds) or _USUAL)
    after = streams.event_of(last_event_id, query.after)
    newest = await service.feed.newest()
    position = newest if after is None else min(after, newest)
    return streams.Stream(streams.ledger_events(service.feed, wanted, position), service.feed)


@router.get(
    "/runs/{run}/events",
    summary="Follow a run",
    response_class=Response,
    responses={204: {"description": "The client has received everything and need not reconnect."}, **_streams(_RAN)},
)
async def follow_run(
    request: Request,
    run: Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="Number of a run.", examples=[17])],
    service: ServiceDep,
    last_event_id: _LastEventId = None,
) -> Response:
    """Stream a run's states, its progress and the lines of its log, from the beginning until it has ended."""
    preferred(request.headers.get("accept"), (streams.MEDIA_TYPE,))
    position, place, has_all = streams.place_in_run(last_event_id)
    found = await run_sync(service.installation.ledger.runs.get, run)
    if has_all and found.has_ended:
        return Response(status_code=204)
    return streams.Stream(streams.RunStream(service, found, position, place).events(), service.feed)


def _words(given: list[str]) -> list[str]:
    return [word for item in given for word in item.split(",") if word]
