"""Interleaved timing of processes, one per side of a comparison, block by block.

A slow minute of the machine then affects all sides, and no side inherits another's libraries, threads or memory. This
file uses only the standard library, because rivals run it in environments of their own.
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
_ANSWERS = "LOCKSTEP_ANSWERS"  # names the pipe for times; libraries print on standard output and error


class SideFailedError(Exception):
    """A side's process ended too early; the message ends with its output."""


class Pacer:
    """The part inside of a side: `step()`, called after each training step, pauses the process between blocks.

    The first block warms up and starts at once; each further one waits for its turn. After the last block the process
    ends in the middle of its training.
    """

    def __init__(self, steps: int) -> None:
        self._steps = self._left = steps
        self._answers = os.fdopen(int(os.environ[_ANSWERS]), "w")
        self._began = time.perf_counter()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # darts copies its arguments; all copies share one clock

    def step(self) -> None:
        """Count a finished step."""
        self._left -= 1
        if self._left:
            return
        print((time.perf_counter() - self._began) / self._steps * 1e3, file=self._answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # ends the training, which is no longer needed
        self._left = self._steps
        self._began = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Side:
    """A process to time."""

    arguments: tuple[str, ...]
    """Arguments of `python -m`: the module, then its own arguments."""
    python: Path = Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Running:
    """The part outside of a side: a process that waits for its turn."""

    process: subprocess.Popen[str]
    answers: TextIO
    log: TextIO

    def block(self) -> float:
        """Run one block of the side; returns milliseconds per step.

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
        os.close(writing)  # only the process holds it, so that the pipe ends with the process
        with process:
            running = Running(process, answers, log)
            running.answer()
            yield running


def interleave(sides: Mapping[str, Side], *, rounds: int, threads: int) -> dict[str, list[float]]:
    """Run one block per side and round, in turn; returns milliseconds per step, one number per round.

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
