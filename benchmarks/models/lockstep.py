"""Sides of a comparison, each in a process of its own, that take turns block by block.

A slow minute of the machine then hits all of them, and no side inherits another's libraries, threads or memory. Only
the standard library is used here, because rivals run this file in environments of their own.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

ROOT = Path(__file__).resolve().parents[2]
_ANSWERS = "LOCKSTEP_ANSWERS"  # names the pipe for times; libraries print on the others


class SideFailedError(Exception):
    """A side's process ended before its time; the message ends with what it wrote."""


class Pacer:
    """The half within a side: `step()` is called after each training step, and pauses the process between blocks.

    The first block warms up and starts at once; each further one waits for its turn. When no more are wanted the
    process ends, wherever it is.
    """

    def __init__(self, steps: int) -> None:
        self._steps = self._left = steps
        self._answers = os.fdopen(int(os.environ[_ANSWERS]), "w")
        self._began = time.perf_counter()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # darts copies what it is given; there is one clock

    def step(self) -> None:
        """Count a finished step."""
        self._left -= 1
        if self._left:
            return
        print((time.perf_counter() - self._began) / self._steps * 1e3, file=self._answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # out of the middle of a training, which nobody needs any more
        self._left = self._steps
        self._began = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Side:
    """A process to be timed."""

    arguments: tuple[str, ...]
    """After `python -m`: the module, then what it is given."""
    python: Path = Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Running:
    """The half outside: a side's process that waits for its turn."""

    process: subprocess.Popen[str]
    answers: TextIO
    log: TextIO

    def block(self) -> float:
        """Let the side run one block; milliseconds per step.

        Raises:
            SideFailedError: the process ended.

        """
        if self.process.stdin is not None and self.process.poll() is None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> float:
        """Wait for the end of a block."""
        line = self.answers.readline()
        if line:
            return float(line)
        self.process.wait()
        self.log.seek(0)
        raise SideFailedError(f"{self.process.args!r} ended with {self.process.returncode}:\n{self.log.read()[-2000:]}")


@contextmanager
def start(side: Side, threads: int) -> Iterator[Running]:
    """Start a side's process and warm it up; it ends with the context.

    Raises:
        SideFailedError: the process ended.

    """
    reading, writing = os.pipe()
    with os.fdopen(reading) as answers, tempfile.TemporaryFile(mode="w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [side.python, "-m", *side.arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), _ANSWERS: str(writing)},
            pass_fds=[writing],
        )
        os.close(writing)  # the process alone holds it, so that its end is the end of answers
        with process:
            running = Running(process, answers, log)
            running.answer()
            yield running


def interleave(sides: Mapping[str, Side], *, rounds: int, threads: int) -> dict[str, list[float]]:
    """Give each side one block a round, in turn; milliseconds per step, one number a round.

    Raises:
        SideFailedError: a process ended.

    """
    with ExitStack() as stack:
        running = {name: stack.enter_context(start(side, threads)) for name, side in sides.items()}
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, process in running.items():
                taken[name].append(process.block())
        return taken
