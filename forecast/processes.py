"""Processes of this machine: who this one is, whether another still is what it was, and how one is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil

_CLOCK_SLACK = 10.0


def machine() -> str:
    """Return the name of this machine, or what ``FORECAST_MACHINE`` calls it."""
    return os.environ.get("FORECAST_MACHINE") or socket.gethostname()


def identity() -> str:
    """Return what tells this process from every other one of all machines."""
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    return f"{machine()}:{os.getpid()}:{started:%Y%m%dT%H%M%S}"


def find(pid: int, *words: str) -> psutil.Process | None:
    """Return the living process of that number, if its command line has these words: numbers are used again."""
    try:
        process = psutil.Process(pid)
        line = process.cmdline()
        if process.status() == psutil.STATUS_ZOMBIE or not all(word in line for word in words):
            return None
    except psutil.Error:
        return None
    return process


def works(host: str | None, pid: int | None, run_id: int) -> bool:
    """Whether the worker of a run can be seen to live; never that of another machine."""
    return host == machine() and pid is not None and find(pid, "worker", str(run_id)) is not None


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def resident_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process and all its children, in megabytes of 10^6 bytes."""
    return sum(_resident(one) for one in _family(process)) / 1e6


def end(process: psutil.Process, signum: signal.Signals) -> None:
    """Send a signal to a process and all its children."""
    family = list(_family(process))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signum)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signum)


def _family(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0
