"""Outcomes of folders, independent of the fate of the process that loads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WALL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one folder."""

    kind: str
    """``refused`` with a code, ``stopped`` (the process ended or was killed), ``loaded``, or ``raised`` (a fault)."""
    message: str

    @property
    def is_served(self) -> bool:
        """Whether a service without the digest would forecast with the folder."""
        return self.kind == "loaded"


def tried(folders: Sequence[Path], sound: Path, cpu_seconds: int = 20) -> list[Outcome]:
    """Load folders one after another; if one ends the process, a new process continues with the next."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(folders):
        outcomes += _in_one_process(folders[len(outcomes) :], sound, cpu_seconds)
    return outcomes


def _in_one_process(folders: Sequence[Path], sound: Path, cpu_seconds: int) -> list[Outcome]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hostile.trial", str(sound), str(cpu_seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    outcomes: list[Outcome] = []
    with process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        for folder in folders:
            late = threading.Timer(_WALL_SECONDS, process.kill)
            late.start()
            try:
                process.stdin.write(f"{folder}\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            finally:
                late.cancel()
            if not line.endswith("\n"):
                process.kill()
                # Earlier folders may have used up the time: try it again as the first one of a process.
                return outcomes or [Outcome("stopped", f"code {process.wait()}")]
            outcomes.append(Outcome(*json.loads(line)))
        process.stdin.close()
    return outcomes
