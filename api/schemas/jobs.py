"""The shapes of jobs and runs in requests and answers: what OpenAPI shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, model_validator

from forecast.config.jobs import JOB_NAME, Job
from forecast.ledger.runs import Outcome, State
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
    """A job to be kept: the fields of ``[jobs.<name>]`` of the job file, and its name."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB]})

    name: Annotated[str, Field(pattern=JOB_NAME, description="Small letters, digits, - and _.")]

    @property
    def definition(self) -> Job:
        """The job without its name."""
        return Job.model_validate(self.model_dump(exclude={"name"}))


class JobPatch(BaseModel):
    """Fields of a job that become others, as RFC 7396 has it: null takes one back to what it is when left out."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"paused": True}, {"cron": "0 4 * * *"}]})

    paused: Annotated[
        StrictBool | None, Field(description="Whether it rests; the only field that jobs of the job file take.")
    ] = None

    @property
    def fields(self) -> dict[str, Any]:
        """Everything but ``paused``."""
        return dict(self.model_extra or {})


class RunRequest(StrictModel):
    """Nothing: a run now; or the range whose dates are run, both ends included, that never had a run."""

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
            message = "a range has a first and a last"
            raise ValueError(message)
        return self


class QueuedRuns(BaseModel):
    """The numbers of the runs that were put into the queue."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": [17]}]})

    runs: list[int]


class RunInfo(BaseModel):
    """One logical date of a job, and how far it got. Times are the machine's, but for ``due_at``."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_RUN]})

    run_id: int
    job: str
    dataset: str
    kind: str = Field(description="Its weight: training or light.")
    logical_date: str
    cause: str | None = Field(description="cron, data, watermark, drift, regression, hand or backfill.")
    due_at: datetime | None = Field(description="On the data set's clock.")
    state: State
    claimed_at: datetime
    not_before: datetime | None = Field(description="It is not tried again before.")
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    cancel_asked_at: datetime | None
    coalesced_into: int | None
    attempt: int = Field(description="How many workers took it.")
    failures: int
    host: str | None = Field(description="The machine that has or had it.")
    progress: float | None = Field(description="Share of what it is doing that is done.")
    doing: str | None
    reason: str | None = Field(description="What it did, or why it failed, waits or was given up.")
    peak_memory_mb: float | None
    tracking_run: str | None = Field(description="Its run in MLflow.")
    forecast_id: str | None


class AttemptInfo(BaseModel):
    """One worker's try at a run."""

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
    """One run with its attempts, its position in the queue, and where to read on."""

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

    position: int | None = Field(description="In the queue, from 1; null if it does not wait.")
    attempts: list[AttemptInfo]
    links: dict[str, str] = Field(description="events, log, job; forecast and tracking where there is one.")


class RunsPage(BaseModel):
    """Runs, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"runs": [_RUN], "next_before": None}]})

    runs: list[RunInfo]
    next_before: int | None = Field(description="Give it as before to read on; null if there is nothing more.")


class JobInfo(NewJob):
    """A job, where it is defined, and how it stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_INFO]})

    origin: Literal["job_file", "ledger"] = Field(description="What stands in the job file is changed there.")
    paused: bool
    next: datetime | None = Field(description="When it is due next by the clock, on its data set's clock.")
    last_run: RunInfo | None


class JobList(BaseModel):
    """All jobs: those of the job file first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [_INFO]}]})

    jobs: list[JobInfo]


class HostInfo(BaseModel):
    """A process that executes runs."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_HOST]})

    name: str
    machine: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    trainings: int = Field(description="How many it executes at a time.")
    others: int


class QueuedRun(BaseModel):
    """A run that waits."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"position": 1, "run": _RUN | {"state": "queued"}}]})

    position: int
    run: RunInfo


class QueueInfo(BaseModel):
    """What waits, the next one first, and who is at work."""

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
    queue: list[QueuedRun] = Field(description="At most limit of them.")
    hosts: list[HostInfo] = Field(description="Worker hosts that said they live and not that they ended.")
    scheduler: str | None = Field(description="The process that holds the scheduler's lease; null if none does.")


class RunsQuery(BaseModel):
    """Which runs are asked for; a parameter that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")

    job: Annotated[
        str | None, Field(pattern=r"^[a-z0-9][a-z0-9_/-]{0,159}$", description="Only of this job, gone ones too.")
    ] = None
    dataset: Annotated[str | None, Field(description="Only of this data set.")] = None
    state: Annotated[
        list[str],
        Field(description="Repeated or comma separated; all but coalesced if left out."),
    ] = []
    before: Annotated[int | None, Field(ge=1, le=LARGEST_NUMBER, description="Go on behind this run.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 50
