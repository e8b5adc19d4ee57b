"""``GET /``: the latest forecast of one series and channel, with where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import plotly
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from api.dashboard.chart import Chart, ago, draw, span, told
from api.dashboard.rendering import FOLDER, rendered
from api.dependencies import Dataset, ServiceDep, find_dataset, seen_datasets
from api.issued import IssuedForecast, age_of
from api.problems import mistakes_of, status_of, told_outside
from api.rules import public, reads_own
from api.selection import instant, places
from api.service import Service
from forecast.errors import ForecastError, NotFoundError, UnavailableError
from forecast.vocabulary import MAX_HORIZON


class _ForBrowsers(APIRoute):
    """A route that tells of a mistaken parameter with a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                first = mistakes_of(request, error)[0]
                return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, first["code"], first["detail"], first["remedy"])

        return handle


router = APIRouter(include_in_schema=False, route_class=_ForBrowsers)
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_PLOTLY_NAME = f"plotly-{plotly.__version__}.min.js"
_FILES = {name: FOLDER / name for name in ("page.js", "style.css", "icon.svg")}
_TABLE_STEPS = 48
_PAST_SHOWN = 20


class PageQuery(BaseModel):
    """What the page's form sends; what is left out is chosen."""

    model_config = ConfigDict(extra="forbid")

    dataset: str | None = None
    series: str | None = None
    channel: str | None = None
    horizon: Annotated[int | None, Field(ge=1, le=MAX_HORIZON)] = None
    as_of: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a select."""

    value: str
    label: str
    chosen: bool


@router.get("/", dependencies=[reads_own])
async def page(request: Request, query: Annotated[PageQuery, Query()], service: ServiceDep) -> Response:
    """Render the page, or the page that says what is missing."""
    try:
        dataset = find_dataset(query.dataset or _first(service), service)
        if service.latest.find(dataset.name) is None:
            return await run_sync(_empty, dataset, service)
        issued = await service.known_at(dataset.name, instant(query.as_of or None))
        series = places([query.series] if query.series else [], issued.series, "series")[0]
        channel = places([query.channel] if query.channel else [], issued.channels, "channel")[0]
        horizon = query.horizon or issued.issuance.horizon
        reached = await service.extensions.reach(issued, horizon)
        limiter = service.long_turn() if horizon > issued.issuance.horizon else None
        return await run_sync(
            _full, request, dataset, service, query, reached, series, channel, horizon, limiter=limiter
        )
    except ForecastError as error:
        return _problem(status_of(error), error.code, *told_outside(error))


@router.get("/static/{name}", dependencies=[public])
async def static(name: str) -> Response:
    """Serve the page's script and style, and plotly's script out of its Python package."""
    if name == _PLOTLY_NAME:  # the version is in the name, so that it never changes under it
        return FileResponse(
            _PLOTLY, media_type="text/javascript", headers={"Cache-Control": "public, max-age=31536000, immutable"}
        )
    if name in _FILES:
        return FileResponse(_FILES[name], headers={"Cache-Control": "no-cache"})
    raise NotFoundError("route.unknown", "there is nothing at this address", "the page is at /")


def _full(
    request: Request, dataset: Dataset, service: Service, query: PageQuery, forecast: IssuedForecast,
    series: int, channel: int, horizon: int,
) -> Response:  # fmt: skip
    name, job, issuance = dataset.name, dataset.job, forecast.issuance
    history = service.histories.newest(name)
    if history is None:
        raise UnavailableError("history.empty", f"{name} has no rows", f'run "forecast ingest {name}"')
    version, panel = history
    chart = draw(forecast, panel, job, series, channel, horizon, _TABLE_STEPS)
    age, stale = age_of(forecast, job, service.latest.now(name))
    latest = service.latest.of(name).issuance
    is_latest = latest.forecast_id == issuance.forecast_id
    address = _address(request, dataset, forecast, series, channel, horizon, query, is_latest=is_latest)
    return rendered(
        "page.html",
        title=f"{forecast.channels[channel]} at {forecast.series[series]}",
        dataset=dataset,
        datasets=_datasets(dataset, service),
        series=[Option(key, key, i == series) for i, key in enumerate(forecast.series)],
        channels=[Option(key, key, i == channel) for i, key in enumerate(forecast.channels)],
        horizons=_horizons(dataset, forecast, horizon),
        issues=_issues(dataset, service, forecast),
        chart=chart,
        figure=_embedded(chart),
        summary=_summary(chart, dataset, forecast, series, channel, horizon),
        issuance=issuance,
        issued_at=told(issuance.issued_at, job),
        origin=told(issuance.origin, job),
        newest=told(panel.end - job.step, job),
        age=ago(timedelta(seconds=age)),
        is_stale=stale and is_latest,
        is_latest=is_latest,
        recursive=horizon > issuance.horizon,
        span=span(horizon, job.step),
        unit=job.channels[forecast.channels[channel]].unit,
        curl=f"curl '{address}'",
        address=address,
        state=f"{latest.forecast_id}/{version}",
        plotly=_PLOTLY_NAME,
    )


def _empty(dataset: Dataset, service: Service) -> Response:
    name = dataset.name
    fault = service.latest.fault(name)
    has_rows = service.histories.has_rows(name)
    has_champion = service.installation.ledger.champion(name) is not None
    return rendered(
        "empty.html",
        title="No forecast yet",
        dataset=dataset,
        datasets=_datasets(dataset, service),
        fault=fault,
        steps=[
            ("Bring the data in", f"forecast ingest {name}", has_rows),
            ("Train the models and choose a champion", f"forecast train {name}", has_champion),
            ("Issue the first forecast", f"forecast forecast {name}", False),
        ],
        state="",
    )


def _problem(status: int, code: str, told: str, remedy: str) -> Response:
    return rendered("problem.html", status, title="This cannot be shown", code=code, told=told, remedy=remedy)


def _embedded(chart: Chart) -> Markup:
    # Inside a script element nothing is escaped for us: a "</script>" in a name must not end it.
    escaped = chart.figure.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(escaped)  # noqa: S704 - escaped in the line above


def _address(
    request: Request, dataset: Dataset, forecast: IssuedForecast, series: int, channel: int, horizon: int,
    query: PageQuery, *, is_latest: bool,
) -> str:  # fmt: skip
    wanted = {"series": forecast.series[series], "channels": forecast.channels[channel], "horizon": str(horizon)}
    if query.as_of and not is_latest:
        wanted["as_of"] = query.as_of
    return f"{request.base_url}v1/datasets/{quote(dataset.name)}/forecast?{urlencode(wanted)}"


def _first(service: Service) -> str:
    seen = seen_datasets(service) or [Dataset(name, job) for name, job in service.installation.jobs.datasets.items()]
    return seen[0].name


def _datasets(dataset: Dataset, service: Service) -> list[Option]:
    return [Option(one.name, one.job.title or one.name, one.name == dataset.name) for one in seen_datasets(service)]


def _horizons(dataset: Dataset, forecast: IssuedForecast, chosen: int) -> list[Option]:
    trained = forecast.issuance.horizon
    offered = {
        *(steps for steps in dataset.job.horizons if steps <= trained),
        trained,
        min(2 * trained, MAX_HORIZON),
        chosen,
    }
    return [
        Option(str(steps), span(steps, dataset.job.step) + (", recursive" if steps > trained else ""), steps == chosen)
        for steps in sorted(offered)
    ]


def _issues(dataset: Dataset, service: Service, forecast: IssuedForecast) -> list[Option]:
    """Return the latest forecasts, the newest first; of those issued at one instant only the last can be asked for."""
    newest = {
        item.issued_at: item for item in reversed(service.installation.ledger.issuances(dataset.name, _PAST_SHOWN))
    }
    shown = newest | {forecast.issuance.issued_at: forecast.issuance}
    ordered = sorted(shown.values(), key=lambda item: item.sequence, reverse=True)
    return [
        Option(
            "" if place == 0 else item.issued_at.isoformat(),
            told(item.issued_at, dataset.job) + (" (latest)" if place == 0 else ""),
            item.forecast_id == forecast.issuance.forecast_id,
        )
        for place, item in enumerate(ordered)
    ]


def _summary(chart: Chart, dataset: Dataset, forecast: IssuedForecast, series: int, channel: int, horizon: int) -> str:
    unit = dataset.job.channels[forecast.channels[channel]].unit
    first = chart.steps[0]
    return (
        f"Forecast of {forecast.channels[channel]} at {forecast.series[series]} for {span(horizon, dataset.job.step)}: "
        f"the first step, {first.time}, has the median {first.median} {unit} between {first.lower} and {first.upper}."
    )
