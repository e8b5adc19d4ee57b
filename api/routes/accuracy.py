"""``GET /v1/datasets/{dataset}/accuracy``: realised accuracy of the served forecasts."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.errors.suggestions import suggest
from api.openapi.responses import problems
from api.requests.negotiation import JSON, by_content, preferred
from api.schemas.accuracy import AccuracyAnswer, AccuracyQuery, AccuracyRow
from api.service import Service
from forecast.errors import NotFoundError
from forecast.installation import Dataset
from forecast.vocabulary import before

router = APIRouter(prefix="/v1/datasets", tags=["accuracy"], dependencies=[reads])


@router.get(
    "/{dataset}/accuracy",
    response_model=AccuracyAnswer,
    summary="Realised accuracy of the served forecasts",
    responses={304: {"description": "The client has this answer already."}, **problems(404, 406, 422, 503)},
)
async def read_accuracy(
    request: Request, dataset: DatasetDep, query: Annotated[AccuracyQuery, Query()], service: ServiceDep
) -> Response:
    """Aggregate the scores that the step `score` stored for forecasts whose steps have been observed."""
    preferred(request.headers.get("accept"), (JSON,))
    answer = await run_sync(_answer, dataset, query, service)
    return by_content(request, answer.model_dump_json().encode())


def _answer(dataset: Dataset, query: AccuracyQuery, service: Service) -> AccuracyAnswer:
    if query.channel is not None and query.channel not in dataset.config.targets:
        remedy = suggest(query.channel, dataset.config.targets)
        raise NotFoundError("channel.unknown", "the target channel does not exist", remedy)
    # Whole days, so that the answer and its tag stay the same until new scores are stored.
    now = service.latest.now(dataset.name).replace(hour=0, minute=0, second=0, microsecond=0)
    since = None if query.window is None else before(now, query.window)
    rows = service.installation.ledger.scores.accuracy(
        dataset.name, query.by, since, model=query.model, channel=query.channel
    )
    return AccuracyAnswer(
        dataset=dataset.name,
        by=query.by,
        since=since,
        rows=[AccuracyRow.model_validate(row, from_attributes=True) for row in rows],
    )
