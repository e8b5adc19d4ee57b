"""Clocks. Time is passed in as a :class:`Clock`; no other module reads the machine's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The time of one data set: the machine's, or that of its replay."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ReplayClock:
    """The clock of a replayed data set: a position that only a running scheduler advances.

    The position is a row of the ledger and not a function of the machine's time. So all processes see the same time,
    and no date is lost while the scheduler is stopped.

    >>> ReplayClock(lambda: datetime(2013, 11, 1, tzinfo=UTC)).now().isoformat()
    '2013-11-01T00:00:00+00:00'
    """

    position: Callable[[], datetime]

    def now(self) -> datetime:
        """Return the current position of the replay."""
        return self.position()
