"""Schemas of stored rows and of the requirements of a forecast."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.models import CHAMPION
from forecast.vocabulary import MAX_HORIZON, Role


class ObservationQuery(BaseModel):
    """Selection of stored rows."""

    model_config = ConfigDict(extra="forbid")

    series: Annotated[list[str], Field(description="Series, repeated or comma separated; default: all.")] = []
    channels: Annotated[list[str], Field(description="Channels, repeated or comma separated; default: all.")] = []
    start: Annotated[str | None, Field(description="RFC 3339 time with offset: start of the range, included.")] = None
    end: Annotated[str | None, Field(description="RFC 3339 time with offset: end of the range, excluded.")] = None
    tz: Annotated[str | None, Field(description="IANA time zone of returned timestamps; default: UTC.")] = None
    limit: Annotated[int, Field(ge=1, le=1_000_000, description="Return at most this many of the newest rows.")] = (
        100_000
    )


class SeriesOfRows(BaseModel):
    """The rows of one series as columns."""

    series: str
    time: list[str]
    values: dict[str, list[float | None]] = Field(description="By channel; null for a missing value.")


class ObservationAnswer(BaseModel):
    """Stored rows, before gaps are filled."""

    dataset: str
    data_version: int
    zone: str
    rows: int
    truncated: bool = Field(description="Whether older rows of the range exceed limit and are left out.")
    series: list[SeriesOfRows]


class RequirementsQuery(BaseModel):
    """The forecast whose requirements are returned."""

    model_config = ConfigDict(extra="forbid")

    horizon: Annotated[int | None, Field(ge=1, le=MAX_HORIZON, description="Steps; default: the trained horizon.")] = (
        None
    )
    model: Annotated[str, Field(max_length=200, description="Model version, or champion or previous.")] = CHAMPION


class Needed(BaseModel):
    """A range of rows; both ends are included."""

    start: datetime
    end: datetime
    rows: int
    channels: list[str]


class NeededChannel(BaseModel):
    """A channel that rows must have."""

    name: str
    column: str = Field(description="Name of the column in pushed rows.")
    role: Role
    unit: str
    lower: float | None
    upper: float | None


class Lacking(BaseModel):
    """Values that are not stored: a forecast would fill them by the channel's policy, or fail without them."""

    series: str
    channel: str
    count: int
    first: datetime
    last: datetime


class Requirements(BaseModel):
    """Rows, channels and times that a forecast from ``origin`` needs."""

    dataset: str
    model_name: str
    model_version: str
    frequency: str
    zone: str
    origin: datetime = Field(description="Time of the first step: the step after the newest row, or now without rows.")
    horizon: int
    horizon_trained: int
    series: list[str] = Field(description="The series that the model was trained on.")
    channels: list[NeededChannel]
    history: Needed = Field(description="The look-back: a row for each of its times and each series to forecast.")
    future: Needed | None = Field(description="Known-future covariates beyond the origin; null if there are none.")
    data_version: int | None
    lacking: list[Lacking] = Field(description="Required values that are not stored; empty if complete.")
