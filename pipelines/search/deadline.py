"""An end of time for work that reports its progress."""

from __future__ import annotations

import time

from forecast.progress import Step


class TimeIsOverError(Exception):
    """The time for some work is over, amid the work."""


class Limited(Step):
    """A step that is left by :class:`TimeIsOverError` at the first progress after a deadline: within one batch."""

    def __init__(self, step: Step, deadline: float) -> None:
        """Take the deadline on the clock of ``time.monotonic``."""
        self._step = step
        self._deadline = deadline

    def reach(self, fraction: float) -> None:
        """Say that a fraction of the work is done."""
        if time.monotonic() >= self._deadline:
            raise TimeIsOverError
        self._step.reach(fraction)

    def note(self, text: str) -> None:
        """Say in a few words how the work stands."""
        self._step.note(text)
