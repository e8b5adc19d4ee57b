"""One run of a job, and the attempts at it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from forecast.config.jobs import Job
from forecast.errors import ConflictError

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "coalesced"]


Outcome = Literal["succeeded", "failed", "abandoned", "cancelled", "handed_back"]


SHOWN = ("queued", "running", "succeeded", "failed", "cancelled")


ENDED = ("succeeded", "failed", "cancelled", "coalesced")


@dataclass(frozen=True, slots=True)
class Run:
    """One logical date of a job, and its progress."""

    run_id: int
    job: str
    dataset: str
    kind: str
    """Its weight: ``training`` or ``light``."""
    logical_date: str
    state: str
    claimed_at: datetime
    ended_at: datetime | None
    pid: int | None
    reason: str | None
    """Its result, or why it failed, waits or was abandoned."""
    cause: str | None
    due_at: datetime | None
    document: str | None
    host: str | None
    """The machine of its present or last worker."""
    attempt: int
    failures: int
    not_before: datetime | None
    """Machine's time before which it is not tried again."""
    started_at: datetime | None
    heartbeat_at: datetime | None
    cancel_asked_at: datetime | None
    coalesced_into: int | None
    progress: float | None
    doing: str | None
    peak_memory_mb: float | None
    tracking_run: str | None
    """Run in MLflow."""
    forecast_id: str | None
    log: str | None

    @property
    def definition(self) -> Job:
        """The job as it was when the date was claimed; raises ``run.outdated``."""
        try:
            return Job.model_validate_json(self.document or "")
        except ValidationError as error:
            message = f"run {self.run_id} was made by another release, whose jobs this one cannot read"
            raise ConflictError("run.outdated", message, "run the job anew") from error

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's attempt at a run."""

    run_id: int
    number: int
    host: str
    pid: int | None
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    peak_memory_mb: float | None
