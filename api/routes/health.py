"""``/healthz`` and ``/readyz``: for whoever restarts the process or sends it requests."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.dependencies import Dataset, ServiceDep
from api.routes.forecasts import age_of
from api.schemas import DatasetReadiness, Liveness, Readiness
from api.service import Service

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Liveness")
async def liveness() -> Liveness:
    """Answer as long as the process can."""
    return Liveness()


@router.get(
    "/readyz",
    summary="Readiness, with reasons",
    responses={503: {"model": Readiness, "description": "A data set has no forecast."}},
)
async def readiness(response: Response, service: ServiceDep) -> Readiness:
    """Tell of each data set whether it can be served; a stale forecast is served, so it only degrades."""
    jobs = service.installation.jobs.datasets
    told = [_readiness(Dataset(name, job), service) for name, job in jobs.items()]
    response.headers["Cache-Control"] = "no-store"
    if not all(item.ready for item in told):
        response.status_code = 503
        return Readiness(status="not ready", datasets=told)
    return Readiness(status="degraded" if any(item.reasons for item in told) else "ready", datasets=told)


def _readiness(dataset: Dataset, service: Service) -> DatasetReadiness:
    faults = (service.latest.fault(dataset.name), service.histories.fault(dataset.name))
    codes = [fault.code for fault in faults if fault is not None]
    reasons = list(dict.fromkeys([*codes, *service.faults_of_tables(dataset.name)]))
    if service.latest.is_late:
        reasons.append("forecast.not_followed")
    issued = service.latest.find(dataset.name)
    if issued is None:
        reasons = reasons or ["forecast.none_yet"]
        return DatasetReadiness(
            dataset=dataset.name, ready=False, forecast_id=None, age=None, stale=None, reasons=reasons
        )
    age, stale = age_of(issued, dataset.job, service.latest.now(dataset.name))
    return DatasetReadiness(
        dataset=dataset.name,
        ready=True,
        forecast_id=issued.issuance.forecast_id,
        age=age,
        stale=stale,
        reasons=[*reasons, *(["forecast.stale"] if stale else [])],
    )
