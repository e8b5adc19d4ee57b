"""``GET /v1/datasets/{dataset}/observations`` and ``/requirements``: stored rows, and what the next forecast needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import polars as pl
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic_core import to_json

from api.answers.requirements import requirements
from api.auth.scopes import reads
from api.dependencies import DatasetDep, ServiceDep
from api.forecasts.encoding import encoded
from api.forecasts.selection import instant, places, zone
from api.openapi.responses import problems
from api.requests.negotiation import FORMATS, JSON, TABLES, by_content, preferred
from api.schemas.history import ObservationAnswer, ObservationQuery, Requirements, RequirementsQuery
from api.service import Service
from forecast.errors import ConfigError, UnavailableError
from forecast.installation import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["observations"], dependencies=[reads])


@router.get(
    "/{dataset}/observations",
    response_model=ObservationAnswer,
    summary="Read rows back",
    responses={200: {"content": TABLES}, **problems(404, 406, 422, 503)},
)
async def read_observations(
    request: Request, dataset: DatasetDep, query: Annotated[ObservationQuery, Query()], service: ServiceDep
) -> Response:
    """Return stored rows of the newest data version."""
    media = preferred(request.headers.get("accept"), FORMATS)
    body = await run_sync(_rows, dataset, query, service, media, limiter=service.long_answers)
    return by_content(request, body, media)


@router.get(
    "/{dataset}/requirements",
    response_model=Requirements,
    summary="Requirements of the next forecast",
    responses=problems(404, 406, 422, 503),
)
async def read_requirements(
    request: Request, dataset: DatasetDep, query: Annotated[RequirementsQuery, Query()], service: ServiceDep
) -> Response:
    """Return the rows, channels and covariate times of the next forecast, and the values that the lake lacks."""
    preferred(request.headers.get("accept"), (JSON,))
    loaded = await service.champions.of(dataset.name, query.model)
    answer = await run_sync(requirements, dataset, loaded, query.horizon, service)
    return by_content(request, answer.model_dump_json().encode())


def _rows(dataset: Dataset, query: ObservationQuery, service: Service, media: str) -> bytes:
    config, table = dataset.config, dataset.observations
    begin, end = instant(query.start, "start"), instant(query.end, "end")
    known = list(config.channels)
    channels = [known[place] for place in places(query.channels, known, "channel")]
    if begin is not None and end is not None and begin >= end:
        raise ConfigError("range.empty", "start is not before end", "give a later end")
    if not table.exists:
        raise UnavailableError("history.empty", f"{dataset.name} has no rows", f'run "forecast ingest {dataset.name}"')
    zone_name, version = zone(query.tz).key, table.version
    rows = table.read(version=version, since=begin, until=end, channels=channels)
    if query.series:
        rows = rows.filter(pl.col("series").is_in(_named(query.series, dataset, service)))
    is_truncated = len(rows) > query.limit
    if is_truncated:
        rows = rows.sort("time", "series").tail(query.limit).sort("series", "time")
    rows = rows.with_columns(pl.col("time").dt.convert_time_zone(zone_name))
    if media != JSON:
        return encoded(rows, media)
    document: dict[str, Any] = {
        "dataset": dataset.name,
        "data_version": version,
        "zone": zone_name,
        "rows": len(rows),
        "truncated": is_truncated,
        "series": [
            {
                "series": name,
                "time": [time.isoformat().replace("+00:00", "Z") for time in part["time"]],
                "values": {channel: part[channel].fill_nan(None).to_list() for channel in channels},
            }
            for (name,), part in rows.group_by("series", maintain_order=True)
        ],
    }
    return to_json(document)


def _named(given: Sequence[str], dataset: Dataset, service: Service) -> list[str]:
    newest = service.histories.newest(dataset.name)
    known = [] if newest is None else list(newest[1].series)
    return [known[place] for place in places(given, known, "series")]
