"""``GET /data``: freshness, gaps, receipts of ingestions, and quarantined rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.auth.scopes import reads_own
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.figures.summary import Tile
from api.dashboard.formats import age, count, local_time, percent, short
from api.dashboard.navigation import DatasetQuery, chosen, frame
from api.dashboard.rendering import rendered
from api.dependencies import ServiceDep
from api.errors.problems import client_text
from api.service import Service
from forecast.config.dataset import DatasetConfig
from forecast.installation import Dataset
from forecast.panel import Mask, Panel
from forecast.vocabulary import parse_duration
from pipelines.preparation.freshness import newest_observed

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_DAYS = 30
_RECEIPTS = 12
_QUARANTINED = 50
_STEPS = (0.0, 0.05, 0.25, 0.75)


@dataclass(frozen=True, slots=True)
class Cell:
    """Share of missing values of one channel on one day."""

    level: int
    """From 0 (complete) to 4 (nearly all missing); -1 for a day without rows."""
    message: str


@dataclass(frozen=True, slots=True)
class Freshness:
    """Time and age of the newest value of one series and channel."""

    series: str
    channel: str
    newest: str
    age: str
    is_late: bool


@router.get("/data")
async def page(query: Annotated[DatasetQuery, Query()], service: ServiceDep) -> Response:
    """Render the page from the newest history, which the service keeps in memory."""
    return await run_sync(_page, chosen(query.dataset, service), service)


def _page(dataset: Dataset, service: Service) -> Response:
    name, config, ledger = dataset.name, dataset.config, service.installation.ledger
    fault = service.histories.fault(name)
    history = None if fault else service.histories.newest(name)
    now = service.latest.now(name)
    shared = frame("Data", dataset, service) | {
        "title": f"Data of {config.title or name}",
        "fault": fault,
        "fault_text": client_text(fault) if fault else (),
    }
    if history is None:
        return rendered("data_empty.html", **shared)
    version, panel = history
    fresh = list(_freshness(panel, config, now))
    late = [item for item in fresh if item.is_late]
    days, gaps = _gaps(panel, config)
    missing = _missing_lately(panel, config)
    aside = service.installation.dataset(name).quarantine.read(limit=1000)
    reasons = Counter(zip(aside["code"].to_list(), aside["reason"].to_list(), strict=True)).most_common(20)
    newest = panel.end - config.step
    tiles = [
        Tile("Newest row", age(now - newest), "old", local_time(newest, config.tz)),
        Tile("Missing in 30 days", percent(missing, 1), "", "of the targets' values, over all series"),
        Tile(
            "Series", f"{len(panel.series):,}", "",
            f"{count(len(config.channels), 'channel')}, every {config.frequency}"
        ),
        Tile("Quarantined", f"{len(aside):,}" if len(aside) < 1000 else "1,000+", count(len(aside), "row").split()[-1],
             "kept with the reason, never used"),
    ]  # fmt: skip
    lede = (
        f"The data are up to date: the newest row is {age(now - newest)} old."
        if not late
        else f"{count(len(late), 'pair')} of series and channel are more than {config.stale_after} behind."
    )
    return rendered(
        "data.html",
        **shared,
        lede=lede,
        tiles=tiles,
        version=version,
        fresh=sorted(fresh, key=lambda item: not item.is_late)[:200],
        days=days,
        gaps=gaps,
        receipts=[(short(item.recorded_at, config.tz), item) for item in ledger.receipts.latest(name, _RECEIPTS)],
        reasons=reasons,
        aside=[
            row | {"at": short(row["recorded_at"], config.tz)} for row in aside.head(_QUARANTINED).iter_rows(named=True)
        ],
    )


def _freshness(panel: Panel, config: DatasetConfig, now: datetime) -> Iterator[Freshness]:
    allowed = parse_duration(config.stale_after)
    for series, channels in newest_observed(panel, config).items():
        for channel, newest in channels.items():
            if newest is None:
                yield Freshness(series, channel, "never observed", "-", is_late=True)
            else:
                since = max(now - newest, timedelta())
                yield Freshness(series, channel, local_time(newest, config.tz), age(since), is_late=since > allowed)


def _observed(panel: Panel, config: DatasetConfig) -> Iterator[tuple[str, Mask]]:
    """Yield each channel with its mask of observed values, [S, T]."""
    parts = (
        (config.targets, panel.observed),
        (config.past_covariates, panel.past_observed),
        (config.future_covariates, panel.future_observed[:, : panel.steps]),
    )
    for names, observed in parts:
        for place, name in enumerate(names):
            yield name, observed[:, :, place]


def _gaps(panel: Panel, config: DatasetConfig) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Return labels of the last days, and per channel the missing share of each day over all series."""
    last = (panel.end - config.step).astimezone(config.tz).date()
    dates = [last - timedelta(days=back) for back in reversed(range(_DAYS))]
    first = max(panel.steps - int(timedelta(days=_DAYS + 2) / config.step), 0)
    day_of = np.array(
        [(panel.time(row).astimezone(config.tz).date() - dates[0]).days for row in range(first, panel.steps)]
    )
    found = []
    for name, observed in _observed(panel, config):
        cells = []
        for day, date in enumerate(dates):
            rows = observed[:, first:][:, day_of == day]
            if not rows.size:
                cells.append(Cell(-1, f"{date:%d %b}: no rows"))
                continue
            share = 1.0 - float(rows.mean())
            level = sum(share > step for step in _STEPS)
            cells.append(Cell(level, f"{date:%d %b}: {percent(share)} missing"))
        found.append((name, cells))
    return [f"{date.day}" if date.day != 1 else f"{date:%b}" for date in dates], found


def _missing_lately(panel: Panel, config: DatasetConfig) -> float:
    steps = int(timedelta(days=_DAYS) / config.step)
    return 1.0 - float(panel.observed[:, -steps:].mean())
