"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_RESET_PEAK = "5"
"""What Linux takes in ``/proc/self/clear_refs`` to begin a new high-water mark."""


class PeakMemory:
    """The most memory that was held at a time since this object was made.

    Where the system keeps one mark per process only (not Linux), earlier work counts too.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    @property
    def megabytes(self) -> float:
        """Megabytes of 1e6 bytes: of the GPU if the work runs on one, else of the whole process."""
        used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return round((used or _resident()) / 1e6, 1)


def _resident() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return mark if sys.platform == "darwin" else mark * 1024
