"""A job: what is done for a data set and when. One model for the job file, the command line and REST."""

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
    """Bring in what is new at the source."""
    RETRAIN = "retrain"
    """Train challengers, compare them with the champion, promote or not."""
    FORECAST = "forecast"
    """Issue a forecast with the champion."""
    SCORE = "score"
    """Compare issued forecasts with what happened."""
    TUNE = "tune"
    """Search for better options of one model."""
    MAINTAIN = "maintain"
    """Verify and tidy the data set's tables."""
    ROLLBACK = "rollback"
    """Make an earlier champion champion again."""


class Trigger(StrEnum):
    """What else than the clock makes a job due."""

    DATA = "data"
    """Rows came in that are new or changed."""
    WATERMARK = "watermark"
    """Every series and target has been observed up to a later step than before."""
    DRIFT = "drift"
    """An alert says that the data have drifted away from what the champion was fitted on."""
    REGRESSION = "regression"
    """An alert says that the champion does worse on what came true than it did on its holdout."""


class CatchUp(StrEnum):
    """What becomes of dates that were missed."""

    LATEST = "latest"
    """The latest is run, the others are coalesced into it."""
    EACH = "each"
    """Each is run, in order."""


class Weight(StrEnum):
    """How much of a machine a run takes."""

    TRAINING = "training"
    LIGHT = "light"


_HEAVY = frozenset({JobStep.RETRAIN, JobStep.TUNE})


class Job(StrictModel):
    """What is done, for which data set, when, and within which limits."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: str
    steps: Annotated[tuple[JobStep, ...], Field(min_length=1, max_length=6)]
    """What is done, in this order; the first step that fails ends the run."""
    cron: str = ""
    """Five fields of cron, as every other cron reads them; empty: not by the clock."""
    zone: str = ""
    """IANA zone of ``cron``; empty: the data set's."""
    on: tuple[Trigger, ...] = ()
    """What makes it due beside the clock."""
    at_most_every: str = ""
    """How long after a run that a trigger asked for no trigger is heard again, on the data set's clock."""
    catch_up: CatchUp = CatchUp.LATEST
    time_limit: str = "12h"
    memory_limit: str = ""
    """Resident memory of the run's processes above which it is ended, such as ``8GB``; empty: no limit."""
    cores: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Cores it may use; left out: all that its worker host has for a training, one for anything else."""
    retries: Annotated[int, Field(ge=0, le=20, strict=True)] = 1
    backoff: str = "30s"
    """Wait before the first retry; it doubles with every further one."""
    model: str = ""
    """tune: the model whose options are searched."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """tune: how long one search goes on."""
    version: Annotated[str, Field(max_length=64)] = ""
    """rollback: the model version that becomes champion again; empty: the one before the present champion."""

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
            message = f'"{text}" is not an amount of memory; write it as 500MB or 8GB'
            raise ValueError(message)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.steps)) < len(self.steps):
            message = f"each step is named once, not {[str(step) for step in self.steps]}"
            raise ValueError(message)
        if len(set(self.on)) < len(self.on):
            message = f"each trigger is named once, not {[str(trigger) for trigger in self.on]}"
            raise ValueError(message)
        if (JobStep.TUNE in self.steps) != bool(self.model):
            message = 'a job with the step "tune" needs a model, and only such a job has one'
            raise ValueError(message)
        if JobStep.ROLLBACK in self.steps and (self.cron or self.on):
            message = 'the step "rollback" is asked for, not scheduled'
            raise ValueError(message)
        if self.version and JobStep.ROLLBACK not in self.steps:
            message = 'only a job with the step "rollback" has a version'
            raise ValueError(message)
        reading = {Trigger.DATA, Trigger.WATERMARK} & set(self.on)
        if reading and JobStep.INGEST in self.steps:
            message = f'a job that ingests cannot wait for what comes in (on = "{min(reading)}"): it would never rest'
            raise ValueError(message)
        if not self.time_limit or not self.backoff:
            message = "time_limit and backoff must not be empty"
            raise ValueError(message)
        return self

    @property
    def weight(self) -> Weight:
        """Whether it trains."""
        return Weight.TRAINING if _HEAVY & set(self.steps) else Weight.LIGHT

    @property
    def description(self) -> str:
        """The steps as a chain."""
        return " -> ".join(self.steps)

    @property
    def seconds(self) -> float:
        """The time limit."""
        return parse_duration(self.time_limit).total_seconds()

    @property
    def memory_mb(self) -> float | None:
        """The memory limit in megabytes of 10^6 bytes, if there is one."""
        found = _SIZE.fullmatch(self.memory_limit)
        return None if found is None else int(found["count"]) * (1000.0 if found["unit"] == "GB" else 1.0)

    @property
    def rest(self) -> timedelta:
        """How long triggers are not heard after one was."""
        return parse_duration(self.at_most_every) if self.at_most_every else timedelta()

    def wait_after(self, failures: int) -> timedelta:
        """Return the wait before the next try after so many failed ones, at most six hours."""
        doublings = min(max(failures - 1, 0), 20)
        return min(parse_duration(self.backoff) * (1 << doublings), timedelta(hours=6))

    def cron_in(self, zone: str) -> Cron | None:
        """Return its cron schedule, in its own zone or the one given; none if it is not due by the clock."""
        return Cron(self.cron, self.zone or zone) if self.cron else None


class Cause(StrEnum):
    """Why a run is there."""

    CRON = "cron"
    DATA = "data"
    WATERMARK = "watermark"
    DRIFT = "drift"
    REGRESSION = "regression"
    HAND = "hand"
    """Somebody asked for it now."""
    BACKFILL = "backfill"
    """Somebody asked for the dates of a range."""


class Due(StrictModel):
    """One date of a job that is to be run."""

    logical_date: str
    """What makes it unique among the job's dates."""
    at: datetime
    """The instant, on the data set's clock."""
    cause: Cause
