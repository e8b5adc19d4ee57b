"""Processes of this machine: identity, liveness, memory, and termination with all descendants."""

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
    """Return ``FORECAST_MACHINE``, or else the host name."""
    return os.environ.get("FORECAST_MACHINE") or socket.gethostname()


def identity() -> str:
    """Return a name of this process that is unique across machines: machine, pid and start time."""
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    return f"{machine()}:{os.getpid()}:{started:%Y%m%dT%H%M%S}"


def find(pid: int, *words: str) -> psutil.Process | None:
    """Return the running process ``pid`` if its command line contains the words, since pids are reused."""
    try:
        process = psutil.Process(pid)
        line = process.cmdline()
        if process.status() == psutil.STATUS_ZOMBIE or not all(word in line for word in words):
            return None
    except psutil.Error:
        return None
    return process


def works(host: str | None, pid: int | None, run_id: int) -> bool:
    """Whether the worker of a run is running on this machine; always false for other machines."""
    return host == machine() and pid is not None and find(pid, "worker", str(run_id)) is not None


def is_alive(process: psutil.Process) -> bool:
    """Whether a process is running and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def has_lived_since(pid: int, time: datetime) -> bool:
    """Whether process ``pid`` is running and was started by ``time``, since pids are reused."""
    try:
        process = psutil.Process(pid)
        return is_alive(process) and process.create_time() <= time.timestamp() + _CLOCK_SLACK
    except psutil.Error:
        return False


def parent(process: psutil.Process) -> int | None:
    """Return the pid of a process's parent; ``None`` if the process has just ended."""
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def resident_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process and its descendants, in megabytes of 10^6 bytes."""
    return sum(_resident(one) for one in _family(process)) / 1e6


def end(process: psutil.Process, signum: signal.Signals) -> None:
    """Send a signal to a process, its descendants, and its session, which may have outlived the process."""
    for one in {*_family(process), *_session(process)}:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signum)


def _family(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    with contextlib.suppress(psutil.Error):
        yield from process.children(recursive=True)


def _session(process: psutil.Process) -> Iterator[psutil.Process]:
    if psutil.pid_exists(process.pid) and not process.is_running():
        return  # the pid was reused, so the session belongs to another process
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == process.pid:
                yield psutil.Process(pid)


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0
