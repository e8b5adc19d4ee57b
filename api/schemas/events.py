"""Schemas of event streams."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.jobs import LARGEST_NUMBER

KINDS = ("run", "progress", "forecast", "promotion", "alert")


class EventsQuery(BaseModel):
    """Selection of events; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    dataset: Annotated[list[str], Field(description="Data sets, repeated or comma separated; default: all.")] = []
    kinds: Annotated[
        list[str],
        Field(description=f"Of {', '.join(KINDS)}, repeated or comma separated; default: all but progress."),
    ] = []
    after: Annotated[
        int | None,
        Field(ge=0, le=LARGEST_NUMBER, description="Begin after this event; default: with the next one."),
    ] = None
