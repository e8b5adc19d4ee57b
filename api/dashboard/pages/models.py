"""``GET /models``: the last night's comparison and decision, former champions, and links to MLflow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.auth.scopes import reads_own
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.formats import local_time, number, percent, short, signed
from api.dashboard.mlflow_links import comparison, mlflow_ui
from api.dashboard.navigation import DatasetQuery, chosen, frame
from api.dashboard.rendering import embedded, rendered
from api.dependencies import ServiceDep
from api.service import Service
from forecast.evaluation.metrics import skill
from forecast.evaluation.night import NightRecord
from forecast.evaluation.scores import Evidence
from forecast.installation import Dataset

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_NAIVE, _LINEAR = "seasonal_naive", "linear"
_CURVES = 6
_COLOURS = ("@actual", "@accent", "@other", "@good", "@history", "@soft")
_DASHES = ("solid", "solid", "solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the leaderboard."""

    version: str
    is_champion: bool
    is_challenger: bool
    pinball: str
    share: float
    """Loss as a share of the largest one shown: the length of the bar."""
    maes: list[str]
    mase: str
    coverage: str
    naive: str
    linear: str


@router.get("/models")
async def page(query: Annotated[DatasetQuery, Query()], service: ServiceDep) -> Response:
    """Render the page from the ledger's latest nights."""
    return await run_sync(_page, chosen(query.dataset, service), service)


def _page(dataset: Dataset, service: Service) -> Response:
    name, config, ledger = dataset.name, dataset.config, service.installation.ledger
    champions = ledger.champions.history(name, 20)
    nights = ledger.nights.latest(name, 7)
    shared: dict[str, Any] = frame("Models", dataset, service) | {
        "title": f"Models of {config.title or name}",
        "champions": [(local_time(one.promoted_at, config.tz), one) for one in champions],
        "nights": [(short(night.recorded_at, config.tz), night) for night in nights],
        "promote_at": f"/v1/models/{quote(name)}/promote",
    }
    if not nights:
        return rendered("models_empty.html", **shared)
    night = nights[0]
    ui = mlflow_ui(service.installation.home)
    return rendered(
        "models.html",
        **shared,
        night=night,
        when=local_time(night.recorded_at, config.tz),
        holdout=f"{short(night.holdout_from, config.tz)} to {short(night.holdout_until, config.tz)}",
        rows=_rows(night),
        horizons=config.horizons,
        promised=percent(night.leaderboard[0].promised_coverage),
        beaten=[night.display_name(one) for one in night.beaten],
        comparisons=[
            (
                f"{item.first} to {item.last}",
                signed(item.gain),
                item.gain >= 0,
                _chance(item.p_better),
                _chance(item.p_worse),
            )
            for item in night.verdict.comparisons
        ],
        tracking=f"{ui}/#/runs/{quote(night.tracking_run)}",
        tracking_all=comparison(night, ui),
        curves=embedded(_curves(night)),
    )


def _rows(night: NightRecord) -> list[Row]:
    naive, linear = (_loss(night, name) for name in (_NAIVE, _LINEAR))
    most = max((one.pinball for one in night.leaderboard if math.isfinite(one.pinball)), default=1.0) or 1.0
    return [
        Row(
            one.model_version,
            one.model_version == night.champion,
            one.model_version == night.verdict.challenger,
            number(one.pinball, 4),
            one.pinball / most if math.isfinite(one.pinball) else 0.0,
            [number(scores.mae) for scores in one.by_horizon.values()],
            number(one.overall.mase),
            percent(one.overall.coverage, 1),
            signed(None if naive is None else skill(one.pinball, naive)),
            signed(None if linear is None else skill(one.pinball, linear)),
        )
        for one in night.leaderboard
    ]


def _loss(night: NightRecord, name: str) -> float | None:
    found = next((one.pinball for one in night.candidates if one.model_name == name), None)
    return found if found and math.isfinite(found) else None


def _chance(p: float | None) -> str:
    return "too few origins" if p is None else f"{p:.3f}"


def _curves(night: NightRecord) -> dict[str, Any]:
    """Draw pinball loss by lead time of the best models."""
    shown: list[Evidence] = list(night.leaderboard[:_CURVES])
    data = [
        {
            "y": [round(value, 5) if math.isfinite(value) else None for value in one.by_lead.get("pinball", ())],
            "x0": 1, "dx": 1, "mode": "lines", "hovertemplate": "%{y:.3f}",
            "name": one.model_name + (" (champion)" if one.model_version == night.champion else ""),
            "line": {"color": _COLOURS[place], "dash": _DASHES[place], "width": 1.8},
        }
        for place, one in enumerate(shown)
    ]  # fmt: skip
    titles = {
        "xaxis": {"title": {"text": "lead time in steps"}},
        "yaxis": {"title": {"text": "pinball loss, standard deviations"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": titles}
