"""Deadline for work that reports its progress."""

from __future__ import annotations

import time

from forecast.progress import Step


class TimeIsOverError(Exception):
    """The deadline has passed during the work."""


class Limited(Step):
    """A step that raises :class:`TimeIsOverError` at the first progress report after a deadline, within one batch.

    >>> Limited(Step(), deadline=0.0).reach(0.5)
    Traceback (most recent call last):
    pipelines.search.deadline.TimeIsOverError
    """

    def __init__(self, step: Step, deadline: float) -> None:
        """Wrap ``step``; ``deadline`` is a time of ``time.monotonic``."""
        self._step = step
        self._deadline = deadline

    def reach(self, fraction: float) -> None:
        """Report the finished fraction of the work."""
        if time.monotonic() >= self._deadline:
            raise TimeIsOverError
        self._step.reach(fraction)

    def note(self, text: str) -> None:
        """Report the state of the work in a few words."""
        self._step.note(text)
