"""Supervisor of service, scheduler and MLflow UI: it starts, watches and stops them together."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

from forecast.errors import ConflictError, UnavailableError
from forecast.scheduling.parent_death import tied_to_parent

_GRACE_SECONDS = 15.0
_READY_SECONDS = 120.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback addresses


@dataclass(frozen=True, slots=True)
class Member:
    """A process under the supervisor."""

    name: str
    command: Sequence[str]
    ready_url: str | None = None
    """URL that returns 200 once the process is ready; ``None`` if it has no port."""
    environment: Mapping[str, str] | None = None


class Supervisor:
    """Context manager that starts its members, and stops all of them on exit.

    :meth:`watch` returns on a signal and raises if a member dies.
    """

    def __init__(self, members: Sequence[Member], logs: Path) -> None:
        self._members = members
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._handlers: dict[signal.Signals, Any] = {}
        """The previous signal handlers."""
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[signum] = signal.signal(signum, self._on_signal)
        try:
            for member in self._members:
                self._running[member.name] = self._start(member)
        except UnavailableError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        for signum, handler in self._handlers.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._handlers.clear()

    @property
    def stopping(self) -> bool:
        """Whether a stop signal has arrived."""
        return self._stopping.is_set()

    def wait_until_ready(self) -> None:
        """Wait until all members with a ``ready_url`` are ready; raises ``member.died`` or ``member.not_ready``."""
        for member in self._members:
            if member.ready_url is not None:
                self.wait_for(partial(_answers, member.ready_url), f"{member.name} to answer", _READY_SECONDS)

    def wait_for(self, condition: Callable[[], bool], goal: str, seconds: float) -> None:
        """Wait until a condition holds; returns early on a stop signal.

        Raises ``member.died``, and ``member.not_ready`` after ``seconds`` of waiting for the ``goal``.
        """
        deadline = time.monotonic() + seconds
        while not condition() and not self.stopping:
            self._raise_if_dead()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "member.not_ready", f"waited {seconds:.0f} s for {goal}", f'see the logs in "{self._logs}"'
                )
            self._stopping.wait(0.2)

    def watch(self) -> None:
        """Return on a stop signal; raise ``member.died`` if a member exits on its own."""
        while not self._stopping.wait(0.5):
            self._raise_if_dead()

    def stop(self) -> None:
        """Terminate all members, and kill those that do not end within the grace period."""
        for process in self._running.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            _signal_group(process, signal.SIGKILL)  # orphaned children of the member
        self._running.clear()

    def _start(self, member: Member) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **(member.environment or {})}
        program = member.command[0]
        # Checked first: the wrapper itself always starts, so a missing program would look like a member that died.
        if shutil.which(program, path=environment.get("PATH")) is None:
            raise _not_started(member, f'program "{program}" does not exist')
        try:
            with (self._logs / f"{member.name}.log").open("ab") as log:
                return subprocess.Popen(
                    tied_to_parent(member.command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the members in order
                    env=environment,
                )
        except OSError as error:
            raise _not_started(member, str(error)) from error

    def _raise_if_dead(self) -> None:
        for name, process in self._running.items():
            code = process.poll()
            if code is not None and not self.stopping:
                raise UnavailableError(
                    "member.died", f"{name} ended with exit code {code}", f'see "{self._logs / name}.log"'
                )

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._stopping.set()


def require_free_port(port: int, option: str, host: str = "127.0.0.1") -> None:
    """Raise ``port.taken`` if a server could not listen on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "not a port"
            raise ConflictError(
                "port.taken",
                f"port {port} on {host} cannot be used ({reason})",
                f"stop the process that uses it, or choose another port with {option}",
            ) from error


def _not_started(member: Member, reason: str) -> UnavailableError:
    return UnavailableError(
        "member.not_started", f"{member.name} cannot be started ({reason})", "check the installation and the disk"
    )


def _signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
