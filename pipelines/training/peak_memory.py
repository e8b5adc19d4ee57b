"""Peak memory of a training."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_RESET_PEAK = "5"
"""Value that resets the high-water mark in ``/proc/self/clear_refs`` (Linux)."""


class PeakMemory:
    """Peak memory since this object was created.

    Systems other than Linux have one mark per process: there earlier work counts too.

    >>> PeakMemory().megabytes > 0
    True
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    @property
    def megabytes(self) -> float:
        """Peak in units of 1e6 bytes: of the GPU if it is used, else of the process."""
        used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return round((used or _resident()) / 1e6, 1)


def _resident() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return mark if sys.platform == "darwin" else mark * 1024
