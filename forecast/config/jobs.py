"""A scheduled job: its steps, data set, schedule and limits. Config file, command line and REST share this model."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import available_timezones

from pydantic import ConfigDict, Field, field_validator, model_validator

from forecast.config.cron import Cron
from forecast.errors import nearest
from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration

JOB_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_SIZE = re.compile(r"(?P<count>[1-9][0-9]{0,5})(?P<unit>MB|GB)")


class JobStep(StrEnum):
    """One step of a job."""

    INGEST = "ingest"
    """Ingest new rows from the source."""
    RETRAIN = "retrain"
    """Train candidates, compare the best one with the champion, and promote it if it wins."""
    FORECAST = "forecast"
    """Issue a forecast with the champion."""
    SCORE = "score"
    """Score issued forecasts against observations."""
    TUNE = "tune"
    """Search for better hyperparameters of one model."""
    MAINTAIN = "maintain"
    """Verify and compact the data set's tables."""
    ROLLBACK = "rollback"
    """Promote an earlier champion again."""


class Trigger(StrEnum):
    """Event that makes a job due, beside its cron schedule."""

    DATA = "data"
    """An ingestion added or changed rows."""
    WATERMARK = "watermark"
    """The watermark moved: every series and target has been observed up to a later step."""
    DRIFT = "drift"
    """A drift alert is open: the data differ from the rows that the champion was fitted on."""
    REGRESSION = "regression"
    """A regression alert is open: the champion's live loss is higher than its loss on the holdout."""


class CatchUp(StrEnum):
    """How missed dates are caught up."""

    LATEST = "latest"
    """Run the latest date; coalesce the others into it."""
    EACH = "each"
    """Run every date, in order."""


class Weight(StrEnum):
    """Resource class of a run; a worker host has separate slots for each."""

    TRAINING = "training"
    LIGHT = "light"


_HEAVY = frozenset({JobStep.RETRAIN, JobStep.TUNE})


class Job(StrictModel):
    """Steps for one data set, their schedule and their limits."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: str
    steps: Annotated[tuple[JobStep, ...], Field(min_length=1, max_length=6)]
    """Steps in order; the first one that fails ends the run."""
    cron: str = ""
    """Standard cron expression of five fields; empty: no cron schedule."""
    zone: str = ""
    """IANA time zone of ``cron``; empty: the data set's zone."""
    on: tuple[Trigger, ...] = ()
    """Events that make the job due, beside ``cron``."""
    at_most_every: str = ""
    """Minimum time between two triggered runs, on the data set's clock; triggers in between are ignored."""
    catch_up: CatchUp = CatchUp.LATEST
    time_limit: str = "12h"
    memory_limit: str = ""
    """Resident memory of the run's processes above which the run is killed, such as ``8GB``; empty: no limit."""
    cores: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Cores that the run may use; default: all cores of its worker host for a training, otherwise one."""
    retries: Annotated[int, Field(ge=0, le=20, strict=True)] = 1
    backoff: str = "30s"
    """Wait before the first retry; it doubles with each further retry."""
    model: str = ""
    """tune: the model whose hyperparameters are searched."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """tune: duration of one search."""
    version: Annotated[str, Field(max_length=64)] = ""
    """rollback: the model version to promote again; empty: the previous champion."""

    @field_validator("cron")
    @classmethod
    def _cron(cls, text: str) -> str:
        if text:
            Cron(text, "UTC")  # raises ValueError
        return text

    @field_validator("zone")
    @classmethod
    def _zone(cls, zone: str) -> str:
        if zone and zone not in available_timezones():
            message = f'"{zone}" is not an IANA time zone; {nearest(zone, available_timezones())}'
            raise ValueError(message)
        return zone

    @field_validator("time_limit", "backoff", "at_most_every")
    @classmethod
    def _duration(cls, text: str) -> str:
        if text:
            parse_duration(text)
        return text

    @field_validator("memory_limit")
    @classmethod
    def _size(cls, text: str) -> str:
        if text and not _SIZE.fullmatch(text):
            message = f'"{text}" is not a valid memory size; write it as 500MB or 8GB'
            raise ValueError(message)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.steps)) < len(self.steps):
            message = f"steps must not repeat: {[str(step) for step in self.steps]}"
            raise ValueError(message)
        if len(set(self.on)) < len(self.on):
            message = f"triggers must not repeat: {[str(trigger) for trigger in self.on]}"
            raise ValueError(message)
        if (JobStep.TUNE in self.steps) != bool(self.model):
            message = 'a job with the step "tune" needs a model; other jobs must not name one'
            raise ValueError(message)
        if JobStep.ROLLBACK in self.steps and (self.cron or self.on):
            message = 'the step "rollback" cannot be scheduled; leave out cron and on'
            raise ValueError(message)
        if self.version and JobStep.ROLLBACK not in self.steps:
            message = 'only a job with the step "rollback" may name a version'
            raise ValueError(message)
        reading = {Trigger.DATA, Trigger.WATERMARK} & set(self.on)
        if reading and JobStep.INGEST in self.steps:
            message = (
                f'a job that ingests cannot wait for ingested data (on = "{min(reading)}"): it would trigger itself'
            )
            raise ValueError(message)
        if not self.time_limit or not self.backoff:
            message = "time_limit and backoff must not be empty"
            raise ValueError(message)
        return self

    @property
    def weight(self) -> Weight:
        """Resource class: ``TRAINING`` if any step trains models."""
        return Weight.TRAINING if _HEAVY & set(self.steps) else Weight.LIGHT

    @property
    def description(self) -> str:
        """The steps as text: ``ingest -> score -> forecast``."""
        return " -> ".join(self.steps)

    @property
    def seconds(self) -> float:
        """The time limit in seconds."""
        return parse_duration(self.time_limit).total_seconds()

    @property
    def memory_mb(self) -> float | None:
        """The memory limit in megabytes of 10^6 bytes; ``None``: no limit."""
        found = _SIZE.fullmatch(self.memory_limit)
        return None if found is None else int(found["count"]) * (1000.0 if found["unit"] == "GB" else 1.0)

    @property
    def rest(self) -> timedelta:
        """``at_most_every`` as a time span; zero if empty."""
        return parse_duration(self.at_most_every) if self.at_most_every else timedelta()

    def wait_after(self, failures: int) -> timedelta:
        """Return the backoff after a number of failed attempts, at most six hours."""
        doublings = min(max(failures - 1, 0), 20)
        return min(parse_duration(self.backoff) * (1 << doublings), timedelta(hours=6))

    def cron_in(self, zone: str) -> Cron | None:
        """Return the cron schedule, in the job's own zone or else the one given; ``None`` without ``cron``."""
        return Cron(self.cron, self.zone or zone) if self.cron else None


class Cause(StrEnum):
    """Why a run was queued."""

    CRON = "cron"
    DATA = "data"
    WATERMARK = "watermark"
    DRIFT = "drift"
    REGRESSION = "regression"
    HAND = "hand"
    """A user requested the run."""
    BACKFILL = "backfill"
    """A user requested the dates of a range."""


class Due(StrictModel):
    """One date of a job that is due."""

    logical_date: str
    """Unique among the job's dates."""
    at: datetime
    """When it is due, on the data set's clock."""
    cause: Cause
