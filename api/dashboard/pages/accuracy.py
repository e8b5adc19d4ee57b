"""``GET /accuracy``: errors of served forecasts, and the coverage of their bands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth.scopes import reads_own
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.figures import accuracy as figures
from api.dashboard.figures.reliability import Reliabilities
from api.dashboard.figures.summary import Tile
from api.dashboard.formats import count, number, percent, signed, span
from api.dashboard.navigation import DatasetQuery, Option, chosen, frame
from api.dashboard.rendering import embedded, rendered
from api.dependencies import ServiceDep
from api.forecasts.selection import places
from api.service import Service
from forecast.installation import Dataset
from forecast.monitoring.live_scores import Accuracy
from forecast.vocabulary import parse_duration

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_WINDOWS = {"7d": "7 days", "30d": "30 days", "90d": "90 days", "all": "all time"}
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class AccuracyPageQuery(DatasetQuery):
    """Query of the accuracy page's form."""

    channel: str | None = None
    window: Literal["7d", "30d", "90d", "all"] = "30d"


@router.get("/accuracy")
async def page(query: Annotated[AccuracyPageQuery, Query()], service: ServiceDep) -> Response:
    """Render the page from the ledger's score sums."""
    return await run_sync(_page, query, chosen(query.dataset, service), service)


@router.get("/accuracy/detail")
async def detail(request: Request, query: Annotated[AccuracyPageQuery, Query()], service: ServiceDep) -> Response:
    """Render calibration and errors by hour and weekday. They need issued forecasts, so the page loads them later."""
    state = request.app.state
    if not hasattr(state, "reliabilities"):
        state.reliabilities = Reliabilities(service.installation)
    dataset = chosen(query.dataset, service)
    return await run_sync(_detail, query, dataset, service, state.reliabilities, limiter=service.long_turn())


def _page(query: AccuracyPageQuery, dataset: Dataset, service: Service) -> Response:
    name, config = dataset.name, dataset.config
    channel = _channel(query, dataset)
    since = _since(query, dataset, service)
    shared = frame("Accuracy", dataset, service) | {
        "title": f"Accuracy of {channel}",
        "channels": [Option(key, key, key == channel) for key in config.targets],
        "windows": [Option(key, label, key == query.window) for key, label in _WINDOWS.items()],
        "window": _WINDOWS[query.window],
        "detail": "/accuracy/detail?" + urlencode({"dataset": name, "channel": channel, "window": query.window}),
    }
    ledger, unit = service.installation.ledger, config.channels[channel].unit
    whole = ledger.scores.accuracy(name, "all", since, channel=channel)
    if not whole:
        return rendered("accuracy_empty.html", **shared)
    by_lead = ledger.scores.accuracy(name, "lead_time", since, channel=channel)
    return rendered(
        "accuracy.html",
        **shared,
        unit=unit,
        tiles=_tiles(whole[0], unit),
        lede=_lede(whole[0], channel, unit, _WINDOWS[query.window]),
        promised=percent(whole[0].promised_coverage),
        parts=[
            (
                "By lead time",
                "Steps ahead",
                _groups(ledger.scores.accuracy(name, "lead_group", since, channel=channel), config.step),
            ),
            ("By series", "Series", _named(ledger.scores.accuracy(name, "series", since, channel=channel))),
            ("By model", "Model", _named(ledger.scores.accuracy(name, "model", since, channel=channel))),
        ],
        by_channel=_named(ledger.scores.accuracy(name, "channel", since)),
        errors=embedded(figures.errors(by_lead, unit)),
        coverage=embedded(figures.coverage(by_lead)),
    )


def _detail(query: AccuracyPageQuery, dataset: Dataset, service: Service, reliabilities: Reliabilities) -> Response:
    channel = _channel(query, dataset)
    history = service.histories.newest(dataset.name)
    found = None
    if history is not None:
        found = reliabilities.of(dataset.name, channel, _since(query, dataset, service), *history)
    context: dict[str, Any] = {"found": found}
    if found is not None:
        unit = dataset.config.channels[channel].unit
        context |= {
            "calibration": embedded(figures.calibration(found)),
            "levels": [
                (f"{level:g}", percent(share, 1)) for level, share in zip(found.levels, found.below, strict=True)
            ],
            "hours": embedded(
                figures.bars([f"{hour:02d}" for hour in range(24)], found.by_hour, unit, "hour of the day")
            ),
            "weekdays": embedded(figures.bars(_WEEKDAYS, found.by_weekday, unit, "")),
            "zone": dataset.config.zone,
        }
    return rendered("accuracy_detail.html", **context)


def _channel(query: AccuracyPageQuery, dataset: Dataset) -> str:
    targets = dataset.config.targets
    return targets[places([query.channel] if query.channel else [], targets, "channel")[0]]


def _since(query: AccuracyPageQuery, dataset: Dataset, service: Service) -> datetime | None:
    if query.window == "all":
        return None
    now = service.latest.now(dataset.name).replace(hour=0, minute=0, second=0, microsecond=0)
    return now - parse_duration(query.window)


def _lede(one: Accuracy, channel: str, unit: str, window: str) -> str:
    error = f"off by {number(one.mae_in_units)} {unit} on average".replace("  ", " ")
    against = "" if one.skill is None else (
        f", {percent(abs(one.skill))} {'less' if one.skill >= 0 else 'more'} than repeating the last season"
    )  # fmt: skip
    off = one.coverage - one.promised_coverage
    judged = "about as promised" if abs(off) <= 0.05 else "more than promised" if off > 0 else "less than promised"
    when = "So far" if window == "all time" else f"In forecasts of the last {window}"
    return (
        f"{when} the median of {channel} was {error}{against}; the {percent(one.promised_coverage)} band held "
        f"{percent(one.coverage)} of {count(one.count, 'value')}, {judged}."
    )


def _tiles(one: Accuracy, unit: str) -> list[Tile]:
    return [
        Tile("Mean absolute error", number(one.mae_in_units), unit, f"root mean square {number(one.rmse_in_units)}"),
        Tile("Skill", signed(one.skill), "", "error reduction against the seasonal naive forecast"),
        Tile("Coverage", percent(one.coverage, 1), "", f"of the {percent(one.promised_coverage)} band"),
        Tile("Pinball loss", number(one.pinball), "", f"in standard deviations; MASE {number(one.mase)}"),
    ]  # fmt: skip


def _row(one: Accuracy, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "count": f"{one.count:,}",
        "mae": number(one.mae_in_units if one.mae_in_units is not None else one.mae),
        "mase": number(one.mase),
        "pinball": number(one.pinball),
        "coverage": percent(one.coverage, 1),
        "is_off": abs(one.coverage - one.promised_coverage) > 0.1,
        "skill": signed(one.skill),
    }


def _named(rows: Sequence[Accuracy]) -> list[dict[str, Any]]:
    return [_row(one, one.part) for one in rows]


def _groups(rows: Sequence[Accuracy], step: Any) -> list[dict[str, Any]]:
    return [_row(one, f"{one.part} (to {span(int(one.part.rpartition('-')[2]), step)})") for one in rows]
