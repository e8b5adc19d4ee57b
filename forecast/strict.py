"""What is written in files is checked as written: a field nobody knows is an error, and nothing is changed later."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A part of a file: frozen, and closed to fields that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
