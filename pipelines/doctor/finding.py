"""What an examination of an installation finds: a fact, and the remedy if something is to be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["well", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at."""

    about: str
    level: Level
    fact: str
    code: str = ""
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing is to be done."""
        return self.level == "well"
