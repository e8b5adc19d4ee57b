"""``/v1/runs`` and ``/v1/queue``: finished, running and queued runs."""

from __future__ import annotations

from typing import Annotated, get_args
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Depends, Path, Query, Response

from api.auth.scopes import administers, reads
from api.dependencies import ServiceDep, find_dataset
from api.errors.suggestions import suggest
from api.events.run_log import LONGEST, read_log
from api.openapi.responses import problems
from api.schemas.jobs import (
    LARGEST_NUMBER,
    MOST_RUNS,
    AttemptInfo,
    HostInfo,
    QueuedRun,
    QueueInfo,
    RunDetail,
    RunInfo,
    RunsPage,
    RunsQuery,
)
from api.service import Service
from forecast.clock import SystemClock
from forecast.errors import ConfigError
from forecast.ledger.run import SHOWN, Run, State
from forecast.scheduling.lease import SCHEDULER

router = APIRouter(prefix="/v1", tags=["runs"], dependencies=[reads])
writing = APIRouter(prefix="/v1", tags=["runs"], dependencies=[administers])
"""Routes that change runs."""


def _run(
    run: Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="Number of a run.", examples=[17])],
    service: ServiceDep,
) -> Run:
    return service.installation.ledger.runs.get(run)


RunDep = Annotated[Run, Depends(_run)]


@router.get("/runs", summary="Runs, newest first", responses=problems(404, 422, 503))
def list_runs(query: Annotated[RunsQuery, Query()], service: ServiceDep) -> RunsPage:
    """List runs; runs that were coalesced into a later one only if ``state`` names them."""
    dataset = None if query.dataset is None else find_dataset(query.dataset, service).name
    found = service.installation.ledger.runs.find(
        dataset=dataset, job=query.job, states=_states(query.state), before=query.before, limit=query.limit
    )
    following = found[-1].run_id if len(found) == query.limit else None
    return RunsPage(runs=[RunInfo.model_validate(run) for run in found], next_before=following)


@router.get("/runs/{run}", summary="One run", responses=problems(404, 422, 503))
def read_run(run: RunDep, service: ServiceDep) -> RunDetail:
    """Describe one run with its attempts, its position in the queue, and links."""
    ledger = service.installation.ledger
    return RunDetail(
        **RunInfo.model_validate(run).model_dump(),
        position=ledger.runs.waiting(run.run_id) if run.state == "queued" else None,
        attempts=[AttemptInfo.model_validate(attempt) for attempt in ledger.runs.attempts(run.run_id)],
        links=_links(run, service),
    )


@router.get(
    "/runs/{run}/log",
    summary="The log of a run",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "run 17 succeeded: 24 new rows\n"}},
            "headers": {
                "Log-Next": {"description": "Value of after for the next part.", "schema": {"type": "integer"}}
            },
        },
        **problems(404, 422, 503),
    },
)
def show_log(
    run: RunDep,
    service: ServiceDep,
    after: Annotated[
        int,
        Query(
            ge=-LARGEST_NUMBER,
            le=LARGEST_NUMBER,
            description="Begin after this many bytes; if negative, this many bytes before the end.",
        ),
    ] = 0,
) -> Response:
    """Return a part of the log, at most 1 MiB; the header ``Log-Next`` is the ``after`` of the next part."""
    part = read_log(service.installation.home.run_log(run.run_id), after, LONGEST)
    headers = {"Log-Next": str(part.end), "Cache-Control": "no-store"}
    return Response(part.text, media_type="text/plain; charset=utf-8", headers=headers)


@router.get("/queue", summary="The queue, the worker hosts and the scheduler", responses=problems(422, 503))
def read_queue(service: ServiceDep, limit: Annotated[int, Query(ge=1, le=MOST_RUNS)] = 100) -> QueueInfo:
    """List the queued runs, next one first, the worker hosts, and the holder of the scheduler's lease."""
    ledger = service.installation.ledger
    lease = ledger.leases.get(SCHEDULER)
    return QueueInfo(
        waiting=ledger.runs.waiting(),
        queue=[
            QueuedRun(position=position, run=RunInfo.model_validate(run))
            for position, run in enumerate(ledger.runs.queue(limit), 1)
        ],
        hosts=[HostInfo.model_validate(host) for host in ledger.hosts.known()],
        scheduler=None if lease is None else lease[0],
    )


@writing.delete("/runs/{run}", status_code=202, summary="Cancel a run", responses=problems(404, 409, 422, 503))
def cancel_run(run: RunDep, service: ServiceDep) -> RunInfo:
    """Cancel a queued run, or ask the worker of a running one to stop."""
    return RunInfo.model_validate(service.installation.ledger.runs.cancel(run.run_id, SystemClock().now()))


def _states(given: list[str]) -> tuple[str, ...]:
    known: tuple[str, ...] = get_args(State)
    wanted = tuple(word for item in given for word in item.split(",") if word)
    for word in wanted:
        if word not in known:
            raise ConfigError("state.unknown", "the state does not exist", suggest(word, known))
    return tuple(dict.fromkeys(wanted)) or SHOWN


def _links(run: Run, service: Service) -> dict[str, str]:
    here = f"/v1/runs/{run.run_id}"
    links = {"self": here, "events": f"{here}/events", "log": f"{here}/log", "job": f"/v1/jobs/{run.job}"}
    issuance = None if run.forecast_id is None else service.installation.ledger.issuances.get(run.forecast_id)
    if issuance is not None:
        links["forecast"] = f"/v1/datasets/{run.dataset}/forecast?as_of={issuance.issued_at:%Y-%m-%dT%H:%M:%S.%fZ}"
    tracking = urlsplit(service.installation.home.tracking_uri)
    if run.tracking_run is not None and tracking.scheme in {"http", "https"}:
        server = tracking._replace(netloc=tracking.netloc.rpartition("@")[2], query="", fragment="")  # no password
        links["tracking"] = f"{urlunsplit(server).rstrip('/')}/#/runs/{run.tracking_run}"
    return links
