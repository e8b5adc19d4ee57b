"""Service, scheduler and MLflow UI under one supervisor: started together, watched, and stopped together."""

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
from forecast.scheduling.parent_death import leashed

_GRACE_SECONDS = 15.0
_READY_SECONDS = 120.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows our own loopback addresses


@dataclass(frozen=True, slots=True)
class Member:
    """One process under the supervisor."""

    name: str
    command: Sequence[str]
    ready_url: str | None = None
    """Answers 200 as soon as the process can be used; ``None`` if it has no address."""
    environment: Mapping[str, str] | None = None


class Supervisor:
    """Starts members, stops all of them when one dies or a signal comes. A context manager: leaving it stops all."""

    def __init__(self, members: Sequence[Member], logs: Path) -> None:
        self._members = members
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._handlers: dict[signal.Signals, Any] = {}
        """What the signals did before."""
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
        """Whether a signal asked for the end."""
        return self._stopping.is_set()

    def wait_until_ready(self) -> None:
        """Wait until every member that has an address answers; raises ``member.died`` or ``member.not_ready``."""
        for member in self._members:
            if member.ready_url is not None:
                self.wait_for(partial(_answers, member.ready_url), f"{member.name} to answer", _READY_SECONDS)

    def wait_for(self, condition: Callable[[], bool], message: str, seconds: float) -> None:
        """Wait until a condition holds while all members live; returns early when the end is asked for."""
        deadline = time.monotonic() + seconds
        while not condition() and not self.stopping:
            self._raise_if_dead()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "member.not_ready", f"waited {seconds:.0f} s for {message}", f'see the logs in "{self._logs}"'
                )
            self._stopping.wait(0.2)

    def watch(self) -> None:
        """Return when a signal asks for the end; raise ``member.died`` if a member ends by itself."""
        while not self._stopping.wait(0.5):
            self._raise_if_dead()

    def stop(self) -> None:
        """Ask every member to end, then make it; none is left behind."""
        for process in self._running.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            _signal_group(process, signal.SIGKILL)  # children that a member left behind
        self._running.clear()

    def _start(self, member: Member) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **(member.environment or {})}
        program = member.command[0]
        # Asked beforehand: the leash starts in any case, and what it fails to run would only be seen as a death.
        if shutil.which(program, path=environment.get("PATH")) is None:
            raise _not_started(member, f'there is no program "{program}"')
        try:
            with (self._logs / f"{member.name}.log").open("ab") as log:
                return subprocess.Popen(
                    leashed(member.command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the members in order
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
    """Raise ``port.taken`` if nobody else could listen there."""
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
                f"stop what listens there, or choose another port with {option}",
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
