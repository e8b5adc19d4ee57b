"""The real processes of the service, which tests start, kill with SIGKILL and restart."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Fleet:
    """Scheduler, worker host and service of one home, by name. A context manager, which ends all of them on exit."""

    def __init__(self, home: Path, **environment: str) -> None:
        self._home = home
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (self.port,) = free_ports(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill(*self._processes)
        for worker in self.workers():
            kill(worker)

    def start(self, name: str, *command: str, **environment: str) -> None:
        """Start a process by a name: ``schedule``, ``work`` or ``serve`` unless a command is given."""
        options = ("--port", str(self.port)) if name == "serve" else ()
        line = [sys.executable, "-m", "forecast", *(command or (name,)), *options, "--home", str(self._home)]
        logs = self._home / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment | environment
            )

    def pid(self, name: str) -> int:
        """Return the process id of a name; the process may have ended."""
        return self._processes[name].pid

    def is_running(self, name: str) -> bool:
        """Whether a process was started and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def kill(self, *names: str) -> None:
        """Kill processes with SIGKILL at the same moment, like a power cut."""
        for name in names:
            self._processes[name].send_signal(signal.SIGKILL)
        for name in names:
            self._processes[name].wait()

    def end(self, *names: str, seconds: float = 30.0) -> None:
        """Ask processes to end, and wait until they have."""
        for name in names:
            self._processes[name].send_signal(signal.SIGTERM)
        for name in names:
            self._processes[name].wait(seconds)

    def workers(self) -> list[psutil.Process]:
        """Return the running workers of this home, whichever process started them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if line[3:5] == ["worker", "run"] and str(self._home) in line and process.status() != "zombie":
                    found.append(process)
        return found


def kill(process: psutil.Process) -> bool:
    """Kill a process; returns whether it was still running."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True


def wait_for(condition: Callable[[], object], event: str, seconds: float = 120.0) -> float:
    """Wait until a condition holds; returns the seconds that took. Raises TimeoutError."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            message = f"still waiting for {event} after {seconds:g} s"
            raise TimeoutError(message)
        time.sleep(0.02)
    return time.monotonic() - begun


def free_ports(count: int) -> list[int]:
    """Return distinct free ports of this machine."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
