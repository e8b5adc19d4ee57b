"""``GET /``: the forecast of one series and channel, its history of revisions, and its provenance."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from api.auth.scopes import reads_own
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.figures import forecast as drawing
from api.dashboard.figures.forecast import Line
from api.dashboard.figures.summary import tiles
from api.dashboard.figures.svg_preview import svg_preview
from api.dashboard.formats import age as age_text
from api.dashboard.formats import local_time, percent, short, span
from api.dashboard.navigation import DatasetQuery, Option, chosen, frame
from api.dashboard.rendering import embedded, rendered
from api.dependencies import ServiceDep
from api.forecasts.selection import instant, places
from api.schemas.forecasts import ForecastAnswer
from api.service import Service
from api.state.issued import IssuedForecast, age_of
from forecast.errors import NotFoundError, UnavailableError
from forecast.installation import Dataset
from forecast.ledger.issuance import Issuance
from forecast.panel import Panel
from forecast.vocabulary import MAX_HORIZON

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_TABLE_STEPS = 48
_REPLAYED = 60


class ForecastsQuery(DatasetQuery):
    """Query of the page's form; missing fields get a default."""

    series: str | None = None
    channel: str | None = None
    horizon: Annotated[int | None, Field(ge=1, le=MAX_HORIZON)] = None
    model: str | None = None
    as_of: str | None = None


@router.get("/")
async def page(request: Request, query: Annotated[ForecastsQuery, Query()], service: ServiceDep) -> Response:
    """Render the forecast, or instructions if there is none yet."""
    dataset = chosen(query.dataset, service)
    if service.latest.find(dataset.name) is None:
        return await run_sync(_empty, dataset, service)
    issuances = await run_sync(service.installation.ledger.issuances.newest, dataset.name, _REPLAYED)
    issued = await service.known_at(dataset.name, _as_of(query, issuances))
    series = places([query.series] if query.series else [], issued.series, "series")[0]
    channel = places([query.channel] if query.channel else [], issued.channels, "channel")[0]
    horizon = query.horizon or issued.issuance.horizon
    reached = await service.long_horizons.reach(issued, horizon)
    limiter = service.long_turn() if horizon > issued.issuance.horizon else None
    line = Line(reached, series, channel, horizon)
    return await run_sync(_full, request, dataset, service, issuances, line, limiter=limiter)


@router.get("/history")
async def history(query: Annotated[HistoryQuery, Query()], service: ServiceDep) -> Response:
    """Return the observations between two wall times, downsampled for a figure."""
    dataset = chosen(query.dataset, service)
    return await run_sync(_history, query, dataset, service)


class HistoryQuery(DatasetQuery):
    """A range of the history, in wall times of the data set's zone."""

    series: str
    channel: str
    start: datetime
    end: datetime


def _history(query: HistoryQuery, dataset: Dataset, service: Service) -> Response:
    panel = _panel(dataset, service)
    series = panel.series[places([query.series], panel.series, "series")[0]]
    channel = dataset.config.targets[places([query.channel], dataset.config.targets, "channel")[0]]
    start, end = (time.replace(tzinfo=dataset.config.tz) for time in (query.start, query.end))
    part = drawing.history(panel, dataset.config, series, channel, start, end, drawing.MOST_POINTS)
    return Response(embedded(part), media_type="application/json")


def _as_of(query: ForecastsQuery, issuances: list[Issuance]) -> datetime | None:
    as_of = instant(query.as_of or None)
    if not query.model:
        return as_of
    by_model = [
        item.issued_at
        for item in issuances
        if item.model_version == query.model and (as_of is None or item.issued_at <= as_of)
    ]
    if not by_model:
        raise NotFoundError("model.not_issued", "no recent forecast was issued with this model", "choose another model")
    return by_model[0]


def _full(request: Request, dataset: Dataset, service: Service, issuances: list[Issuance], line: Line) -> Response:
    name, config, forecast = dataset.name, dataset.config, line.forecast
    issuance, panel = forecast.issuance, _panel(dataset, service)
    age, stale = age_of(forecast, config, service.latest.now(name))
    latest = service.latest.of(name).issuance
    is_latest = latest.forecast_id == issuance.forecast_id
    series, channel = forecast.series[line.series], forecast.channels[line.channel]
    shown = _with(issuances, issuance)
    wanted = {"series": series, "channels": channel, "horizon": str(line.horizon)}
    if not is_latest:
        wanted["as_of"] = issuance.issued_at.isoformat()
    path = f"v1/datasets/{quote(name)}/forecast?{urlencode(wanted)}"
    download = urlencode({"dataset": name} | wanted)
    drawn = _drawn(dataset, shown, line, panel, service)
    steps = drawing.rows(line, panel, config, min(line.horizon, _TABLE_STEPS))
    return rendered(
        "forecasts.html",
        **frame("Forecasts", dataset, service),
        title=f"{channel} at {series}",
        series=[Option(key, key, i == line.series) for i, key in enumerate(forecast.series)],
        channels=[Option(key, key, i == line.channel) for i, key in enumerate(forecast.channels)],
        horizons=_horizons(dataset, forecast, line.horizon),
        models=_models(shown, issuance),
        issues=_issues(shown, issuance, dataset),
        others=[item for item in drawing.newest_by_model(shown) if item.model_version != issuance.model_version],
        tiles=tiles(line, dataset, service, span(line.horizon, config.step)),
        band=line.band[2],
        steps=steps,
        observed=sum(bool(step.actual) for step in steps),
        issuance=issuance,
        issued_at=local_time(issuance.issued_at, config.tz),
        origin=local_time(issuance.origin, config.tz),
        newest=local_time(panel.end - config.step, config.tz),
        facts=_facts(issuance, config.tz),
        age_text=age_text(timedelta(seconds=age)),
        is_stale=stale and is_latest,
        is_latest=is_latest,
        recursive=line.horizon > issuance.horizon,
        span=span(line.horizon, config.step),
        unit=config.channels[channel].unit,
        address=f"{request.base_url}{path}",
        path=f"/{path}",
        download=download,
        state=f"{latest.forecast_id}/{service.histories.newest(name)[0]}",  # type: ignore[index]
        drawn=embedded(drawn),
        preview=svg_preview(drawn["shown"]),
    )


def _facts(issuance: Issuance, zone: tzinfo) -> list[tuple[str, str]]:
    """Return label and value of each column that the REST answer gives a title."""
    titled = {name: field.title for name, field in ForecastAnswer.model_fields.items() if field.title is not None}
    return [(title, _fact(getattr(issuance, name), zone)) for name, title in titled.items()]


def _fact(value: object, zone: tzinfo) -> str:
    match value:
        case float():
            return percent(value, 1)
        case datetime():
            return local_time(value, zone)
        case _:
            return str(value)


def _drawn(dataset: Dataset, shown: list[Issuance], line: Line, panel: Panel, service: Service) -> dict[str, Any]:
    config, channel = dataset.config, line.forecast.channels[line.channel]
    revisions = service.installation.ledger.revisions.latest(dataset.name, _REPLAYED)
    moved = {key: value.by_channel[channel].mean for key, value in revisions.items() if channel in value.by_channel}
    return {
        "dataset": dataset.name,
        "series": line.forecast.series[line.series],
        "channel": channel,
        "unit": config.channels[channel].unit,
        "zone": config.zone,
        "start": drawing.wall(panel.start, config),
        "end": drawing.wall(panel.end, config),
        "shown": drawing.document(line, panel, config),
        "issues": [
            {
                "id": item.forecast_id,
                "at": item.issued_at.isoformat(),
                "label": short(item.issued_at, config.tz),
                "model": item.model_version,
                "moved": moved.get(item.forecast_id),
            }
            for item in reversed(shown)
        ],
    }


def _panel(dataset: Dataset, service: Service) -> Panel:
    found = service.histories.newest(dataset.name)
    if found is None:
        raise UnavailableError("history.empty", f"{dataset.name} has no rows", f'run "forecast ingest {dataset.name}"')
    return found[1]


def _empty(dataset: Dataset, service: Service) -> Response:
    name = dataset.name
    has_rows = service.histories.has_rows(name)
    has_champion = service.installation.ledger.champions.current(name) is not None
    return rendered(
        "empty.html",
        **frame("Forecasts", dataset, service),
        title="No forecast yet",
        fault=service.latest.fault(name),
        steps=[
            ("Ingest the data", f"forecast ingest {name}", has_rows),
            ("Train the models and promote a champion", f"forecast train {name}", has_champion),
            ("Issue the first forecast", f"forecast forecast {name}", False),
        ],
        state="",
    )


def _horizons(dataset: Dataset, forecast: IssuedForecast, wanted: int) -> list[Option]:
    trained = forecast.issuance.horizon
    offered = {
        *(steps for steps in dataset.config.horizons if steps <= trained),
        trained,
        min(2 * trained, MAX_HORIZON),
        wanted,
    }
    return [
        Option(
            str(steps), span(steps, dataset.config.step) + (", recursive" if steps > trained else ""), steps == wanted
        )
        for steps in sorted(offered)
    ]


def _with(issuances: list[Issuance], issuance: Issuance) -> list[Issuance]:
    """Return the latest forecasts and the shown one, newest first.

    Of forecasts issued at one instant only the last is selectable.
    """
    newest = {item.issued_at: item for item in reversed(issuances)} | {issuance.issued_at: issuance}
    return sorted(newest.values(), key=lambda item: item.sequence, reverse=True)


def _models(shown: list[Issuance], issuance: Issuance) -> list[Option]:
    versions = dict.fromkeys(item.model_version for item in shown)
    newest = next(iter(versions))
    return [Option("" if key == newest else key, key, key == issuance.model_version) for key in versions]


def _issues(shown: list[Issuance], issuance: Issuance, dataset: Dataset) -> list[Option]:
    return [
        Option(
            "" if place == 0 else item.issued_at.isoformat(),
            short(item.issued_at, dataset.config.tz) + (" (latest)" if place == 0 else ""),
            item.forecast_id == issuance.forecast_id,
        )
        for place, item in enumerate(shown)
    ]
