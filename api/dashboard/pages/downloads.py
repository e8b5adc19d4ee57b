"""``GET /download``: the forecast shown on the page, as CSV or Parquet."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from api.auth.scopes import reads_own
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.navigation import DatasetQuery, chosen
from api.dependencies import ServiceDep
from api.forecasts import encoding
from api.forecasts.selection import Selection, instant, select
from api.requests.negotiation import CSV, PARQUET
from api.schemas.forecasts import ForecastQuery
from api.state.issued import IssuedForecast
from forecast.vocabulary import MAX_HORIZON

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_MEDIA = {"csv": CSV, "parquet": PARQUET}


class DownloadQuery(DatasetQuery):
    """Selection and format of a download."""

    series: Annotated[list[str], Field(default_factory=list)]
    channels: Annotated[list[str], Field(default_factory=list)]
    horizon: Annotated[int | None, Field(ge=1, le=MAX_HORIZON)] = None
    as_of: str | None = None
    format: Literal["csv", "parquet"] = "csv"


@router.get("/download")
async def download(query: Annotated[DownloadQuery, Query()], service: ServiceDep) -> Response:
    """Return the rows of ``GET /v1/datasets/{dataset}/forecast`` as an attachment."""
    dataset = chosen(query.dataset, service)
    issued = await service.known_at(dataset.name, instant(query.as_of))
    wanted = ForecastQuery(series=query.series, channels=query.channels, horizon=query.horizon)
    part = select(wanted, issued)
    reached = await service.long_horizons.reach(issued, part.horizon)
    body = await run_sync(_encoded, reached, part, _MEDIA[query.format], limiter=service.long_turn())
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{dataset.name}-{issued.issuance.issued_at:%Y%m%dT%H%M%S}")
    headers = {"Content-Disposition": f'attachment; filename="{name}.{query.format}"', "Cache-Control": "no-store"}
    return Response(body, media_type=_MEDIA[query.format], headers=headers)


def _encoded(forecast: IssuedForecast, part: Selection, media: str) -> bytes:
    return encoding.encoded(encoding.table(forecast, part), media)
