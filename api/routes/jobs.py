"""``/v1/jobs``: scheduled jobs, and runs on request."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from api.auth.scopes import administers, reads
from api.dependencies import ServiceDep
from api.errors.suggestions import suggest
from api.openapi.responses import problems
from api.requests.json_body import checked, described, sent
from api.schemas.jobs import JobInfo, JobList, JobPatch, NewJob, QueuedRuns, RunInfo, RunRequest
from api.service import Service
from forecast.config.jobs import Job
from forecast.errors import ConfigError, NotFoundError
from forecast.scheduling.job_book import JobBook, KnownJob

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[reads])
writing = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[administers])
"""Routes that change jobs or queue runs."""

_LONGEST_NAME = 80
_FIELDS = (*Job.model_fields, "paused")


def _book(service: ServiceDep) -> JobBook:
    return JobBook(service.installation)


def _known(job: Annotated[str, Path(description="Name of a job.", examples=["nightly"])], service: ServiceDep) -> str:
    known = _book(service).jobs()
    if job not in known:
        raise NotFoundError(
            "job.unknown", "the job does not exist", suggest(job[:_LONGEST_NAME], known, "see /v1/jobs")
        )
    return job


JobDep = Annotated[str, Depends(_known)]
BookDep = Annotated[JobBook, Depends(_book)]


@router.get("", summary="All jobs", responses=problems(503))
def list_jobs(book: BookDep, service: ServiceDep) -> JobList:
    """Describe every job of the config file and every added job."""
    return JobList(jobs=[_described(known, book, service) for known in book.jobs().values()])


@router.get("/{job}", summary="One job", responses=problems(404, 503))
def read_job(job: JobDep, book: BookDep, service: ServiceDep) -> JobInfo:
    """Describe one job: its steps, its next due time and its last run."""
    return _described(book.job(job), book, service)


@writing.post(
    "",
    status_code=201,
    summary="Add a job",
    responses=problems(409, 413, 415, 422, 503),
    openapi_extra=described(NewJob),
)
def add_job(
    new: Annotated[NewJob, Depends(sent(NewJob))], book: BookDep, service: ServiceDep, response: Response
) -> JobInfo:
    """Add a job; its dates begin now, on its data set's clock."""
    definition = new.definition
    _check_dataset(definition, service)
    known = book.add(new.name, definition)
    response.headers["Location"] = f"/v1/jobs/{known.name}"
    return _described(known, book, service)


@writing.patch(
    "/{job}",
    summary="Change, pause or resume a job",
    responses=problems(404, 409, 413, 415, 422, 503),
    openapi_extra=described(JobPatch),
)
def change_job(
    job: JobDep, patch: Annotated[JobPatch, Depends(sent(JobPatch))], book: BookDep, service: ServiceDep
) -> JobInfo:
    """Change the fields that are sent. A job of the config file can only be paused and resumed."""
    known = book.job(job)
    if patch.fields:
        present = known.definition.model_dump(mode="json", exclude_defaults=True)
        merged = {name: value for name, value in (present | patch.fields).items() if value is not None}
        definition = checked(Job, merged, _FIELDS)
        _check_dataset(definition, service)
        known = book.change(job, definition)
    if patch.paused is not None:
        known = book.pause(job, paused=patch.paused)
    return _described(known, book, service)


@writing.delete("/{job}", status_code=204, summary="Remove a job", responses=problems(404, 409, 503))
def remove_job(job: JobDep, book: BookDep) -> None:
    """Remove an added job. Its runs stay in the ledger; queued ones are cancelled."""
    book.remove(job)


@writing.post(
    "/{job}/runs",
    status_code=202,
    summary="Run a job now, or for the dates of a range",
    responses=problems(404, 409, 413, 415, 422, 503),
    openapi_extra=described(RunRequest, required=False),
)
def run_job(
    job: JobDep,
    wanted: Annotated[RunRequest, Depends(sent(RunRequest, optional=True))],
    book: BookDep,
    response: Response,
) -> QueuedRuns:
    """Queue a run, regardless of the schedule; with a range, one for each of its dates without a run."""
    if wanted.first is not None and wanted.last is not None:
        return QueuedRuns(runs=book.backfill(job, wanted.first, wanted.last))
    run_id = book.run_now(job)
    response.headers["Location"] = f"/v1/runs/{run_id}"
    return QueuedRuns(runs=[run_id])


def _check_dataset(definition: Job, service: Service) -> None:
    datasets = service.installation.config.datasets
    if definition.dataset not in datasets:
        remedy = suggest(definition.dataset, datasets)
        raise ConfigError("job.no_data_set", "the job refers to a data set that does not exist", remedy)


def _described(known: KnownJob, book: JobBook, service: Service) -> JobInfo:
    last = next(iter(service.installation.ledger.runs.find(job=known.name, limit=1)), None)
    return JobInfo(
        **known.definition.model_dump(),
        name=known.name,
        origin=known.origin,
        paused=known.paused,
        next=book.following(known),
        last_run=None if last is None else RunInfo.model_validate(last),
    )
