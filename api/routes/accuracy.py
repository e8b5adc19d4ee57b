"""``GET /v1/datasets/{dataset}/accuracy``: how good the forecasts were that were served."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.errors.problems import suggest
from api.requests.negotiation import JSON, by_content, preferred
from api.routes.forecasts import problems
from api.service import Service
from forecast.errors import NotFoundError
from forecast.installation import Dataset
from forecast.vocabulary import before

router = APIRouter(prefix="/v1/datasets", tags=["accuracy"], dependencies=[reads])


class AccuracyQuery(BaseModel):
    """Which part is asked for; a parameter that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[
        Literal["all", "lead_time", "lead_group", "channel", "model", "series"],
        Field(description="What there is one row of; lead_group: the horizons of the job file."),
    ] = "lead_group"
    window: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9][0-9]{0,5}[smhdw]$",
            description="Forecasts with origins of the last so long, in whole UTC days, such as 30d; all if left out.",
        ),
    ] = None
    channel: Annotated[str | None, Field(description="Of this channel alone, and also in its unit.")] = None
    model: Annotated[str | None, Field(max_length=64, description="Of this model version alone.")] = None


class AccuracyRow(BaseModel):
    """How good the forecasts of one part were; null where it cannot be told."""

    part: str = Field(description="A lead time, a group of them as 1-24, a channel, a model version, a series, or all.")
    count: int = Field(description="Values that were really observed; what was filled counts nowhere.")
    mae: float = Field(description="Of the median, in standard deviations of each channel.")
    rmse: float = Field(description="Of the mean, in standard deviations.")
    mase: float | None = Field(
        description="Absolute error over that of the seasonal naive forecast on the rows that the model was fitted on."
    )
    pinball: float = Field(description="Quantile loss in deviations, averaged over levels and doubled.")
    wql: float | None = Field(description="That loss in original units over the mean absolute value.")
    coverage: float = Field(description="Share of values within the outermost quantiles.")
    promised_coverage: float
    width: float = Field(description="Of the band, in deviations.")
    skill: float | None = Field(
        description="1 - absolute error / that of the seasonal naive forecast from what was known at the origin."
    )
    pinball_by_level: dict[str, float]
    mae_in_units: float | None = Field(description="Where the row is of one channel.")
    rmse_in_units: float | None


class AccuracyAnswer(BaseModel):
    """Realised accuracy of served forecasts."""

    dataset: str
    by: str
    since: datetime | None = Field(description="Beginning of the window, whose day counts whole.")
    rows: list[AccuracyRow] = Field(description="Empty before anything was scored.")


@router.get(
    "/{dataset}/accuracy",
    response_model=AccuracyAnswer,
    summary="How good the served forecasts were",
    responses={304: {"description": "The client has it already."}, **problems(404, 406, 422, 503)},
)
async def read_accuracy(
    request: Request, dataset: DatasetDep, query: Annotated[AccuracyQuery, Query()], service: ServiceDep
) -> Response:
    """Add up what the step `score` found of forecasts whose steps have come true."""
    preferred(request.headers.get("accept"), (JSON,))
    answer = await run_sync(_answer, dataset, query, service)
    body = answer.model_dump_json().encode()
    return by_content(request, body)


def _answer(dataset: Dataset, query: AccuracyQuery, service: Service) -> AccuracyAnswer:
    if query.channel is not None and query.channel not in dataset.config.targets:
        remedy = suggest(query.channel, dataset.config.targets)
        raise NotFoundError("channel.unknown", "there is no target channel of that name", remedy)
    # By the whole day, so that an answer stays the same until something is scored.
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
