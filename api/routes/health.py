"""``/healthz``, ``/readyz`` and ``/metrics``: for orchestrators, load balancers and Prometheus."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.auth.scopes import public, reads
from api.context import access
from api.dependencies import ServiceDep, seen_datasets
from api.schemas.forecasts import DatasetReadiness, Liveness, Readiness
from api.service import Service
from api.state.issued import age_of
from forecast.installation import Dataset
from forecast.ledger.keys import Scope

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Liveness", dependencies=[public])
async def liveness() -> Liveness:
    """Answer 200 while the process is alive."""
    return Liveness()


@router.get(
    "/readyz",
    summary="Readiness, with reasons",
    responses={503: {"model": Readiness, "description": "A data set has no forecast."}},
    dependencies=[public],
)
async def readiness(response: Response, service: ServiceDep) -> Readiness:
    """Return whether each data set can be served. A stale forecast is served, so the state is only ``degraded``.

    If keys exist, the reasons require the scope ``read``.
    """
    found = {dataset.name: _readiness(dataset, service) for dataset in service.installation.datasets}
    reasons = service.reasons()
    response.headers["Cache-Control"] = "no-store"
    if not all(item.ready for item in found.values()):
        response.status_code, status = 503, "not ready"
    else:
        status = "degraded" if reasons or any(item.reasons for item in found.values()) else "ready"
    if not access().may(Scope.READ):
        return Readiness(status=status, reasons=[], datasets=[])
    return Readiness(
        status=status, reasons=reasons, datasets=[found[dataset.name] for dataset in seen_datasets(service)]
    )


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[reads],
)
async def metrics(service: ServiceDep) -> Response:
    """Return the metrics in Prometheus' text format, from memory."""
    return Response(await run_sync(service.metrics.text), media_type=CONTENT_TYPE_LATEST)


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
    age, stale = age_of(issued, dataset.config, service.latest.now(dataset.name))
    return DatasetReadiness(
        dataset=dataset.name,
        ready=True,
        forecast_id=issued.issuance.forecast_id,
        age=age,
        stale=stale,
        reasons=[*reasons, *(["forecast.stale"] if stale else [])],
    )
