"""Schemas of event streams."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.jobs import LARGEST_NUMBER

KINDS = ("run", "progress", "forecast", "promotion", "alert")


class EventsQuery(BaseModel):
    """Which events are asked for; a parameter that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")

    dataset: Annotated[list[str], Field(description="Data sets, repeated or comma separated; all if left out.")] = []
    kinds: Annotated[
        list[str],
        Field(description=f"Of {', '.join(KINDS)}, repeated or comma separated; all but progress if left out."),
    ] = []
    after: Annotated[
        int | None,
        Field(ge=0, le=LARGEST_NUMBER, description="Begin behind this event; with the next one if left out."),
    ] = None
