"""Schemas of stored rows and of the requirements of a forecast."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.models import CHAMPION
from forecast.vocabulary import MAX_HORIZON, Role


class ObservationQuery(BaseModel):
    """Which rows are asked for."""

    model_config = ConfigDict(extra="forbid")

    series: Annotated[list[str], Field(description="Series, repeated or comma separated; all if left out.")] = []
    channels: Annotated[list[str], Field(description="Channels, repeated or comma separated; all if left out.")] = []
    start: Annotated[str | None, Field(description="RFC 3339 time with offset: the first time.")] = None
    end: Annotated[str | None, Field(description="RFC 3339 time with offset: the first time that is left out.")] = None
    tz: Annotated[str | None, Field(description="IANA zone in which times are told; UTC if left out.")] = None
    limit: Annotated[int, Field(ge=1, le=1_000_000, description="The newest rows, at most so many.")] = 100_000


class SeriesOfRows(BaseModel):
    """The rows of one series as columns."""

    series: str
    time: list[str]
    values: dict[str, list[float | None]] = Field(description="By channel; null where there is none.")


class ObservationAnswer(BaseModel):
    """Stored rows as they are, before gaps are filled."""

    dataset: str
    data_version: int
    zone: str
    rows: int
    truncated: bool = Field(description="Whether older rows of the range were left out; see limit.")
    series: list[SeriesOfRows]


class RequirementsQuery(BaseModel):
    """Which forecast is meant."""

    model_config = ConfigDict(extra="forbid")

    horizon: Annotated[int | None, Field(ge=1, le=MAX_HORIZON, description="The trained one if left out.")] = None
    model: Annotated[str, Field(max_length=200, description="Model version, or champion or previous.")] = CHAMPION


class Needed(BaseModel):
    """Times of rows, the last one included."""

    start: datetime
    end: datetime
    rows: int
    channels: list[str]


class NeededChannel(BaseModel):
    """One channel that rows must have."""

    name: str
    column: str = Field(description="Its name in rows that are pushed.")
    role: Role
    unit: str
    lower: float | None
    upper: float | None


class Lacking(BaseModel):
    """Values that are not stored: what a forecast made now would fill by the channel's policy, or miss."""

    series: str
    channel: str
    count: int
    first: datetime
    last: datetime


class Requirements(BaseModel):
    """What a forecast from ``origin`` on needs."""

    dataset: str
    model_name: str
    model_version: str
    frequency: str
    zone: str
    origin: datetime = Field(description="Time of the first step: the step after the newest row, or now without rows.")
    horizon: int
    horizon_trained: int
    series: list[str] = Field(description="Those that the model was trained on.")
    channels: list[NeededChannel]
    history: Needed = Field(
        description="The look-back: every one of its times, of every series that is to be forecast."
    )
    future: Needed | None = Field(description="Known-future covariates beyond the origin; null if there are none.")
    data_version: int | None
    lacking: list[Lacking] = Field(description="What is not stored of it; empty when all is there.")
