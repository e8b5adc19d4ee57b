"""``GET /runs``: schedule, queue and latest runs. ``GET /runs/{run}``: one run with its live log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from api.auth.scopes import reads_own, require_dataset
from api.context import access
from api.dashboard.error_pages import ForBrowsers
from api.dashboard.figures.calendar import BEHIND, SIGNS, calendar
from api.dashboard.formats import age, count, local_time, short
from api.dashboard.mlflow_links import mlflow_ui
from api.dashboard.navigation import DatasetQuery, chosen, frame
from api.dashboard.rendering import rendered
from api.dependencies import ServiceDep
from api.service import Service
from forecast.clock import SystemClock
from forecast.config.jobs import JobStep
from forecast.errors import NotFoundError
from forecast.installation import Dataset
from forecast.ledger.run import Run
from forecast.scheduling.job_book import JobBook, KnownJob
from forecast.scheduling.lease import SCHEDULER

router = APIRouter(include_in_schema=False, route_class=ForBrowsers, dependencies=[reads_own])
_CALENDAR_RUNS = 1000
_LISTED = 25
_LARGEST = 2**63 - 1
_DAY = timedelta(days=1)
_HOST_SILENT = timedelta(seconds=30)


@router.get("/runs")
async def page(query: Annotated[DatasetQuery, Query()], service: ServiceDep) -> Response:
    """Render the schedule, the queue and the latest runs."""
    return await run_sync(_page, chosen(query.dataset, service), service)


@router.get("/runs/{run}")
async def run_page(run: Annotated[int, Path(ge=1, le=_LARGEST)], service: ServiceDep) -> Response:
    """Render one run; the page's script follows its events."""
    return await run_sync(_run_page, run, service)


def _page(dataset: Dataset, service: Service) -> Response:
    name, config, ledger = dataset.name, dataset.config, service.installation.ledger
    book, now, machine = JobBook(service.installation), service.latest.now(name), SystemClock().now()
    jobs = [known for known in book.jobs().values() if known.definition.dataset == name]
    since = now - timedelta(days=BEHIND + 1)
    runs = [
        run for run in ledger.runs.find(dataset=name, limit=_CALENDAR_RUNS)
        if run.state == "queued" or (run.due_at or run.claimed_at) >= since or machine - run.claimed_at < _DAY
    ]  # fmt: skip
    days, rows = calendar(jobs, runs, now, config.tz, config.zone)
    lease = ledger.leases.get(SCHEDULER)
    return rendered(
        "runs.html",
        **frame("Runs", dataset, service),
        title=f"Runs of {config.title or name}",
        lede=_lede(jobs, runs, config.tz),
        days=days,
        rows=rows,
        signs=SIGNS,
        jobs=[_job(known, book, runs, config.tz) for known in jobs],
        running=[_listed(run, config.tz, machine) for run in runs if run.state == "running"],
        queue=[
            (place, _listed(run, config.tz, machine))
            for place, run in enumerate(ledger.runs.queue(), 1)
            if run.dataset == name
        ],
        hosts=[
            (host, age(machine - host.heartbeat_at), machine - host.heartbeat_at > _HOST_SILENT)
            for host in ledger.hosts.known()
        ],
        scheduler=None if lease is None else lease[0],
        listed=[_listed(run, config.tz, machine) for run in runs if run.state not in {"running", "queued"}][:_LISTED],
        now=local_time(now, config.tz),
        now_at=now.isoformat(),
    )


def _run_page(number: int, service: Service) -> Response:
    run = service.installation.ledger.runs.get(number)
    require_dataset(access(), run.dataset)
    jobs = service.installation.config.datasets
    if run.dataset not in jobs:
        raise NotFoundError("run.unknown", f"the data set of run {number} does not exist any more", "")
    dataset = chosen(run.dataset, service)
    ledger, zone = service.installation.ledger, dataset.config.tz
    issuance = None if run.forecast_id is None else ledger.issuances.get(run.forecast_id)
    return rendered(
        "run.html",
        **frame("Runs", dataset, service),
        title=f"Run {number} of {run.job}",
        run=run,
        item=_listed(run, zone, SystemClock().now()),
        attempts=[
            (one, short(one.started_at, zone), "" if one.ended_at is None else age(one.ended_at - one.started_at))
            for one in ledger.runs.attempts(number)
        ],
        issued=None if issuance is None else issuance.issued_at.isoformat(),
        tracking=f"{mlflow_ui(service.installation.home)}/#/runs/{run.tracking_run}" if run.tracking_run else "",
    )


def _lede(jobs: Sequence[KnownJob], runs: Sequence[Run], zone: tzinfo) -> str:
    """Return the page's first sentence: whether the last night succeeded, and how many runs failed."""
    nightly = {known.name for known in jobs if JobStep.RETRAIN in known.definition.steps}
    nights = [run for run in runs if run.job in nightly and run.state != "coalesced"]
    last = next(iter(nights or runs), None)
    if last is None:
        return "No run has started yet."
    what = "night" if nights else "run"
    when = short(last.due_at or last.claimed_at, zone)
    failed = sum(run.state == "failed" for run in runs)
    others = f" {count(failed, 'run').capitalize()} failed in the last {BEHIND} days."
    match last.state:
        case "succeeded":
            took = f" in {age(last.ended_at - last.started_at)}" if last.ended_at and last.started_at else ""
            return f"The last {what} went well: {last.job} of {when} succeeded{took}.{others}"
        case "failed":
            return f"The last {what} failed: {last.job} of {when}.{others}"
        case state:
            return f"The last {what}, {last.job} of {when}, is {state}.{others}"


def _job(known: KnownJob, book: JobBook, runs: Sequence[Run], zone: tzinfo) -> dict[str, Any]:
    following = book.following(known)
    last = next((run for run in runs if run.job == known.name and run.state != "coalesced"), None)
    return {
        "name": known.name,
        "steps": known.definition.description,
        "when": known.definition.cron or " or ".join(known.definition.on) or "by hand",
        "paused": known.paused,
        "next": "" if following is None else short(following, zone),
        "last": last,
        "has_dates": bool(known.definition.cron),
    }


def _listed(run: Run, zone: tzinfo, machine: datetime) -> dict[str, Any]:
    """Return a run, formatted for the lists."""
    end = run.ended_at or machine
    return {
        "run": run,
        "due": short(run.due_at or run.claimed_at, zone),
        "took": age(end - run.started_at) if run.started_at else "",
        "waits": age(machine - run.claimed_at),
        "can_cancel": run.state in {"queued", "running"},
    }
