"""Time is passed in: the one place that asks the machine what time it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time of one data set: the machine's time, or the time of a replay."""

    def now(self) -> datetime:
        """Return the present as an aware UTC time."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A clock that stands still, for computing what was known at one instant."""

    instant: datetime

    def now(self) -> datetime:
        """Return the fixed instant."""
        return self.instant


@dataclass(frozen=True, slots=True)
class ReplayClock:
    """The clock of a replayed data set: a position that only a running scheduler moves on.

    Nothing is lost while the scheduler is stopped, and every process sees the same time, because the position is a row
    of the ledger and not a function of the machine's time.
    """

    position: Callable[[], datetime]

    def now(self) -> datetime:
        """Return the position that the replay has reached."""
        return self.position()
