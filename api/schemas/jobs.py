"""Schemas of jobs, runs and the queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, model_validator

from forecast.config.jobs import JOB_NAME, Job
from forecast.ledger.run import Outcome, State
from forecast.strict import StrictModel

MOST_RUNS = 1000
LARGEST_NUMBER = 2**63 - 1
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)
_End = Annotated[AwareDatetime, Field(ge=_EARLIEST, le=_LATEST)]

_JOB: dict[str, Any] = {
    "name": "nightly",
    "dataset": "nyc-airports",
    "steps": ["ingest", "retrain", "forecast"],
    "cron": "30 2 * * *",
}
_RUN: dict[str, Any] = {
    "run_id": 17,
    "job": "nightly",
    "dataset": "nyc-airports",
    "kind": "training",
    "logical_date": "2013-11-03T02:30",
    "cause": "cron",
    "due_at": "2013-11-03T06:30:00Z",
    "state": "running",
    "claimed_at": "2026-05-01T10:00:00Z",
    "not_before": None,
    "started_at": "2026-05-01T10:00:01Z",
    "heartbeat_at": "2026-05-01T10:00:31Z",
    "ended_at": None,
    "cancel_asked_at": None,
    "coalesced_into": None,
    "attempt": 1,
    "failures": 0,
    "host": "forecast-1",
    "progress": 0.45,
    "doing": "patch_tsmixer: epoch 3",
    "reason": None,
    "peak_memory_mb": 912.4,
    "tracking_run": None,
    "forecast_id": None,
}

_INFO = _JOB | {
    "zone": "",
    "on": [],
    "at_most_every": "",
    "catch_up": "latest",
    "time_limit": "12h",
    "memory_limit": "",
    "cores": None,
    "retries": 1,
    "backoff": "30s",
    "model": "",
    "minutes": 60.0,
    "origin": "ledger",
    "paused": False,
    "next": "2013-11-03T07:30:00Z",
    "last_run": _RUN,
}
_ATTEMPT: dict[str, Any] = {
    "number": 1,
    "host": "forecast-1",
    "pid": 4711,
    "started_at": "2026-05-01T10:00:01Z",
    "ended_at": None,
    "outcome": None,
    "reason": None,
    "peak_memory_mb": 912.4,
}
_HOST: dict[str, Any] = {
    "name": "forecast-1:4700:20260501T095958",
    "machine": "forecast-1",
    "pid": 4700,
    "started_at": "2026-05-01T09:59:58Z",
    "heartbeat_at": "2026-05-01T10:00:31Z",
    "trainings": 1,
    "others": 2,
}


class NewJob(Job):
    """A new job: its name and the fields of ``[jobs.<name>]`` in the config file."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB]})

    name: Annotated[str, Field(pattern=JOB_NAME, description="Lower-case letters, digits, - and _.")]

    @property
    def definition(self) -> Job:
        """The job without its name."""
        return Job.model_validate(self.model_dump(exclude={"name"}))


class JobPatch(BaseModel):
    """Changes to a job as a JSON merge patch (RFC 7396): null resets a field to its default."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"paused": True}, {"cron": "0 4 * * *"}]})

    paused: Annotated[
        StrictBool | None,
        Field(description="Whether the job is paused; the only field that can be changed for jobs of the config file."),
    ] = None

    @property
    def fields(self) -> dict[str, Any]:
        """All fields except ``paused``."""
        return dict(self.model_extra or {})


class RunRequest(StrictModel):
    """Empty: one run now. With a range: a run for each of its dates without a run; both ends are included."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{}, {"first": "2013-11-01T00:00:00-04:00", "last": "2013-11-07T00:00:00-05:00"}]
        }
    )

    first: _End | None = None
    last: _End | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.first is None) != (self.last is None):
            message = "a range requires both first and last"
            raise ValueError(message)
        return self


class QueuedRuns(BaseModel):
    """The numbers of the queued runs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": [17]}]})

    runs: list[int]


class RunInfo(BaseModel):
    """One run of a job for one logical date. Times are of the machine's clock, except ``due_at``."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_RUN]})

    run_id: int
    job: str
    dataset: str
    kind: str = Field(description="Weight of the run: training or light.")
    logical_date: str
    cause: str | None = Field(description="cron, data, watermark, drift, regression, hand or backfill.")
    due_at: datetime | None = Field(description="On the data set's clock.")
    state: State
    claimed_at: datetime
    not_before: datetime | None = Field(description="No further attempt before this time.")
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    cancel_asked_at: datetime | None
    coalesced_into: int | None
    attempt: int = Field(description="Number of attempts so far.")
    failures: int
    host: str | None = Field(description="The machine of the latest attempt.")
    progress: float | None = Field(description="Completed share of the present step.")
    doing: str | None
    reason: str | None = Field(description="Result of the run, or the reason why it failed, waits or was abandoned.")
    peak_memory_mb: float | None
    tracking_run: str | None = Field(description="The run in MLflow.")
    forecast_id: str | None


class AttemptInfo(BaseModel):
    """One attempt of a worker at a run."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_ATTEMPT]})

    number: int
    host: str
    pid: int | None
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    reason: str | None
    peak_memory_mb: float | None


class RunDetail(RunInfo):
    """One run with its attempts, its position in the queue, and links."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _RUN
                | {
                    "position": None,
                    "attempts": [_ATTEMPT],
                    "links": {
                        "events": "/v1/runs/17/events",
                        "log": "/v1/runs/17/log",
                        "job": "/v1/jobs/nightly",
                    },
                }
            ]
        }
    )

    position: int | None = Field(description="Position in the queue, from 1; null if the run does not wait.")
    attempts: list[AttemptInfo]
    links: dict[str, str] = Field(description="events, log, job; forecast and tracking if they exist.")


class RunsPage(BaseModel):
    """Runs, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": [_RUN], "next_before": None}]})

    runs: list[RunInfo]
    next_before: int | None = Field(description="Value of before for the next page; null on the last page.")


class JobInfo(NewJob):
    """A job, the place of its definition, and its state."""

    model_config = ConfigDict(json_schema_extra={"examples": [_INFO]})

    origin: Literal["job_file", "ledger"] = Field(description="Jobs of the config file are changed in the config file.")
    paused: bool
    next: datetime | None = Field(description="Next due time of its schedule, on the data set's clock.")
    last_run: RunInfo | None


class JobList(BaseModel):
    """All jobs; those of the config file come first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [_INFO]}]})

    jobs: list[JobInfo]


class HostInfo(BaseModel):
    """A worker host: a process that executes runs."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_HOST]})

    name: str
    machine: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    trainings: int = Field(description="Number of training runs that it executes at a time.")
    others: int


class QueuedRun(BaseModel):
    """A queued run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"position": 1, "run": _RUN | {"state": "queued"}}]})

    position: int
    run: RunInfo


class QueueInfo(BaseModel):
    """The queue, next run first, the worker hosts and the scheduler."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "waiting": 1,
                    "queue": [{"position": 1, "run": _RUN | {"state": "queued", "started_at": None}}],
                    "hosts": [_HOST],
                    "scheduler": "forecast-1:4699:20260501T095957",
                }
            ]
        }
    )

    waiting: int
    queue: list[QueuedRun] = Field(description="At most limit runs.")
    hosts: list[HostInfo] = Field(description="Worker hosts that have started and not reported their end.")
    scheduler: str | None = Field(description="The process that holds the scheduler's lease; null without a scheduler.")


class RunsQuery(BaseModel):
    """Selection of runs; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    job: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z0-9][a-z0-9_/-]{0,159}$", description="Only runs of this job, which may have been removed."
        ),
    ] = None
    dataset: Annotated[str | None, Field(description="Only runs of this data set.")] = None
    state: Annotated[
        list[str],
        Field(description="States, repeated or comma separated; default: all but coalesced."),
    ] = []
    before: Annotated[int | None, Field(ge=1, le=LARGEST_NUMBER, description="Only runs before this one.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 50
