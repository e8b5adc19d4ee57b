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


def has_lived_since(pid: int, time: datetime) -> bool:
    """Whether the process of that number still runs and is no later one: numbers are used again."""
    try:
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() <= time.timestamp() + _CLOCK_SLACK
    except psutil.Error:
        return False


def parent(process: psutil.Process) -> int | None:
    """Return the number of a process's parent; ``None`` if it has just ended."""
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def resident_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process and all its children, in megabytes of 10^6 bytes."""
    return sum(_resident(one) for one in _family(process)) / 1e6


def end(process: psutil.Process, signum: signal.Signals) -> None:
    """Send a signal to a process, its children, and all of its session, which may have outlived it."""
    for one in {*_family(process), *_session(process)}:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signum)


def _family(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)


def _session(process: psutil.Process) -> Iterator[psutil.Process]:
    if psutil.pid_exists(process.pid) and not process.is_running():
        return  # the number is another's now, and so is its session
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == process.pid:
                yield psutil.Process(pid)


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0
