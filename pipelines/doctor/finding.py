"""Result of one check of the doctor: a fact, and a remedy if the user should act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["well", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Result of one check."""

    about: str
    level: Level
    fact: str
    code: str = ""
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the user has nothing to do."""
        return self.level == "well"
