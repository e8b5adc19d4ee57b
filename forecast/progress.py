"""Progress of long work: bars in a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_QUIET_SECONDS = 10.0


class Step:
    """Progress of one task. This base class reports nothing; the reporters derive from it.

    >>> class Printed(Step):
    ...     def reach(self, fraction: float) -> None:
    ...         print(f"{fraction:.0%}")
    >>> Printed().part(0.5, 1.0).reach(0.5)
    75%
    """

    def reach(self, fraction: float) -> None:
        """Report that a fraction of the task, from 0 to 1, is done."""

    def note(self, text: str) -> None:
        """Report the current state in a few words."""

    def part(self, first: float, last: float) -> Step:
        """Return the step of a subtask that covers the fractions ``first`` to ``last`` of this one."""
        return _Part(self, first, last)


class _Part(Step):
    def __init__(self, whole: Step, first: float, last: float) -> None:
        self._whole = whole
        self._first = first
        self._last = last

    def reach(self, fraction: float) -> None:
        self._whole.reach(self._first + fraction * (self._last - self._first))

    def note(self, text: str) -> None:
        self._whole.note(text)


class Reporter:
    """Show steps on a console: a bar each in a terminal, else a line at the start and every ten seconds.

    >>> import sys
    >>> with Reporter(Console(file=sys.stdout, force_terminal=False)).step("train") as step:
    ...     step.note("loss 0.31")
    train: started
    train: done in 0.0 s, loss 0.31
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show the progress of a step while the body runs."""
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description:<18}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
            )
            with Progress(
                *columns, TextColumn("{task.fields[note]}", style="dim", markup=False), console=self._console
            ) as progress:
                bar = _Bar(progress, progress.add_task(title, total=1.0, note=""))
                yield bar
                bar.reach(1.0)
        else:
            lines = _Lines(self._console, title)
            lines.say("started")
            yield lines
            lines.say(f"done in {time.monotonic() - lines.began:.1f} s")


class _Bar(Step):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def reach(self, fraction: float) -> None:
        self._progress.update(self._task, completed=min(fraction, 1.0))

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)


class _Lines(Step):
    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._said = time.monotonic()
        self._note = ""
        self.began = self._said

    def say(self, text: str) -> None:
        line = ", ".join(filter(None, (f"{self._title}: {text}", self._note)))
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def reach(self, fraction: float) -> None:
        if time.monotonic() - self._said >= _QUIET_SECONDS:
            self._said = time.monotonic()
            self.say(f"{fraction:.0%}")

    def note(self, text: str) -> None:
        self._note = text
