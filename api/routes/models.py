"""``/v1/models``: champions and challengers of each data set, the evidence of the last nights, and rollback."""

from __future__ import annotations

import math
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from api.auth.scopes import administers, reads_own
from api.dependencies import DatasetDep, ServiceDep, seen_datasets
from api.openapi.responses import problems
from api.requests.json_body import described, sent
from api.requests.negotiation import as_json
from api.schemas.forecasts import ChampionInfo
from api.schemas.jobs import QueuedRuns
from api.schemas.models import (
    AllModels,
    GuardInfo,
    ModelsOfDataset,
    ModelsQuery,
    NightInfo,
    PromotionRequest,
    ScoredModel,
)
from api.service import Service
from forecast.evaluation.night import NightRecord
from forecast.evaluation.scores import Evidence
from forecast.installation import Dataset
from forecast.ledger.champions import distinct
from forecast.scheduling.job_book import JobBook

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[reads_own])
writing = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[administers])
"""Routes that change the champion. They queue a run for a worker: the service loads neither torch nor MLflow."""


@router.get("", response_model=AllModels, summary="Models of all data sets", responses=problems(406, 422, 503))
async def list_models(request: Request, query: Annotated[ModelsQuery, Query()], service: ServiceDep) -> Response:
    """Return the models of every data set that the key is valid for."""
    found = [await run_sync(_models, dataset, query.nights, service) for dataset in seen_datasets(service)]
    return as_json(request, AllModels(models=found))


@router.get(
    "/{dataset}", response_model=ModelsOfDataset, summary="Models of one data set",
    responses=problems(404, 406, 422, 503),
)  # fmt: skip
async def read_models(
    request: Request, dataset: DatasetDep, query: Annotated[ModelsQuery, Query()], service: ServiceDep
) -> Response:
    """Return champion, previous champion and challenger, and the evidence of the last nights."""
    return as_json(request, await run_sync(_models, dataset, query.nights, service))


@writing.post(
    "/{dataset}/promote", status_code=202, summary="Promote a former champion",
    responses=problems(404, 409, 413, 415, 422, 503), openapi_extra=described(PromotionRequest),
)  # fmt: skip
def promote(
    dataset: DatasetDep,
    wanted: Annotated[PromotionRequest, Depends(sent(PromotionRequest))],
    service: ServiceDep,
    response: Response,
) -> QueuedRuns:
    """Queue a run that promotes a former champion and issues a forecast with it."""
    return _queued(JobBook(service.installation).roll_back(dataset.name, wanted.version), response)


@writing.post(
    "/{dataset}/rollback", status_code=202, summary="Roll back to the previous champion", responses=problems(404, 503)
)
def roll_back(dataset: DatasetDep, service: ServiceDep, response: Response) -> QueuedRuns:
    """Queue a run that promotes the previous champion and issues a forecast with it."""
    return _queued(JobBook(service.installation).roll_back(dataset.name), response)


def _queued(run_id: int, response: Response) -> QueuedRuns:
    response.headers["Location"] = f"/v1/runs/{run_id}"
    return QueuedRuns(runs=[run_id])


def _models(dataset: Dataset, count: int, service: Service) -> ModelsOfDataset:
    ledger = service.installation.ledger
    champions = distinct(ledger.champions.history(dataset.name))
    versions = [ChampionInfo.model_validate(one, from_attributes=True) for one in champions]
    nights = ledger.nights.latest(dataset.name, max(count, 1))
    last = nights[0].verdict if nights else None
    return ModelsOfDataset(
        dataset=dataset.name,
        champion=versions[0] if versions else None,
        previous=versions[1] if len(versions) > 1 else None,
        challenger=last.challenger if last is not None and not last.promote else None,
        versions=versions,
        nights=[_night(night) for night in nights[:count]],
    )


def _night(night: NightRecord) -> NightInfo:
    verdict = night.verdict
    return NightInfo(
        recorded_at=night.recorded_at,
        data_version=night.data_version,
        holdout_from=night.holdout_from,
        holdout_until=night.holdout_until,
        origins=night.origins,
        challenger=verdict.challenger,
        promoted=verdict.promote,
        gain=_finite(verdict.gain),
        why=verdict.sentence,
        guards=[GuardInfo(name=guard.name, passed=guard.passed, message=guard.message) for guard in verdict.guards],
        leaderboard=[_scored(one) for one in night.leaderboard],
        failures=list(night.failures),
        tracking_run=night.tracking_run,
    )


def _scored(one: Evidence) -> ScoredModel:
    overall = one.overall
    return ScoredModel(
        model_name=one.model_name,
        model_version=one.model_version,
        windows=one.windows,
        mae=_finite(overall.mae),
        rmse=_finite(overall.rmse),
        mase=_finite(overall.mase),
        pinball=_finite(one.pinball),
        coverage=_finite(overall.coverage),
        by_horizon={steps: _finite(scores.pinball) for steps, scores in one.by_horizon.items()},
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
