"""A worker host: takes runs from the queue, starts a worker process for each, and enforces its limits.

Workers survive a killed host: another host of the same machine adopts them.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import psutil

from forecast.clock import Clock, SystemClock
from forecast.config.jobs import Weight
from forecast.errors import ForecastError
from forecast.home import cores
from forecast.installation import Installation
from forecast.ledger.leases import Host
from forecast.ledger.run import Outcome, Run
from forecast.scheduling.processes import end, find, has_lived_since, identity, is_alive, machine, parent, resident_mb
from forecast.scheduling.signals import asked_to_stop

_LOG = logging.getLogger(__name__)
_MB_WORTH_NOTING = 16.0
TRAINING_NICENESS = 10
"""Niceness of trainings, so that the service answers requests first."""


@dataclass(slots=True)
class _Held:
    """A run whose process this host watches."""

    run: Run
    process: psutil.Process
    child: subprocess.Popen[bytes] | None
    """The same process, if this host started it."""
    ends_at: float
    """Monotonic time at which its time limit ends."""
    peak_mb: float = 0.0
    noted_mb: float = 0.0
    ending: tuple[Outcome, str] | None = None
    """Outcome and reason to record once the process has ended, if this host is ending it."""
    killed_at: float = 0.0
    """Monotonic time at which it is killed."""


class WorkerHost:
    """Executes runs of one installation on this machine: ``trainings`` and ``others`` at a time."""

    BEAT_SECONDS: ClassVar[float] = 0.5
    GRACE_SECONDS: ClassVar[float] = 10.0
    """Between SIGTERM and SIGKILL."""
    SIGN_SECONDS: ClassVar[float] = 2.0
    """Between two heartbeats of this host."""

    def __init__(
        self,
        installation: Installation,
        *,
        trainings: int = 1,
        others: int = 2,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installation = installation
        self._ledger = installation.ledger
        self._places = (trainings, others)
        self._clock = clock or SystemClock()
        self._monotonic = monotonic
        self._machine = machine()
        self._me = Host(
            name=identity(), machine=self._machine, pid=os.getpid(), started_at=self._clock.now(),
            heartbeat_at=self._clock.now(), trainings=trainings, others=others,
        )  # fmt: skip
        self._held: dict[int, _Held] = {}
        self._signed_at = float("-inf")

    def run(self) -> None:
        """Work until SIGINT or SIGTERM; unfinished runs return to the queue and continue elsewhere or later."""
        with asked_to_stop() as wait:
            try:
                while not wait(self.BEAT_SECONDS):
                    self.beat()
            finally:
                self.stop()

    def beat(self) -> None:
        """Watch this host's runs, adopt orphans, and take runs from the queue while places are free."""
        try:
            self._sign()
            running = {run.run_id: run for run in self._ledger.runs.find(states=("running",), limit=10_000)}
            for held in list(self._held.values()):
                self._watch(held, running.pop(held.run.run_id, None))
            self._adopt(running)
            while self._take():
                pass
        except ForecastError as error:
            _LOG.error("%s [%s]", error, error.code)  # one line per beat instead of a traceback

    def stop(self) -> None:
        """Terminate the workers and return their runs to the queue; trainings continue from their checkpoints."""
        for held in self._held.values():
            end(held.process, signal.SIGTERM)
        deadline = self._monotonic() + self.GRACE_SECONDS
        for held in self._held.values():
            self._wait(held, max(deadline - self._monotonic(), 0.1))
            self._hand_back(held)
        self._held.clear()
        try:
            self._ledger.hosts.remove(self._me.name)
        except ForecastError as error:
            _LOG.error("%s [%s]", error, error.code)

    # --- one beat ---------------------------------------------------------------------------------------------------

    def _sign(self) -> None:
        if self._monotonic() - self._signed_at < self.SIGN_SECONDS:
            return
        self._signed_at = self._monotonic()
        names = Host.__slots__
        me = {name: getattr(self._me, name) for name in names} | {"heartbeat_at": self._clock.now()}
        self._ledger.hosts.beat(Host(**me))
        for other in self._ledger.hosts.known():
            if other.machine != self._machine or other.name == self._me.name:
                continue
            if other.pid == self._me.pid or not has_lived_since(other.pid, other.started_at):
                self._ledger.hosts.remove(other.name)

    def _watch(self, held: _Held, stored: Run | None) -> None:
        now = self._monotonic()
        if not is_alive(held.process):
            self._ended(held)
            return
        if stored is None or stored.attempt != held.run.attempt:
            if held.ending is None:
                self._leave(held)
        elif held.ending is None:
            self._hold_to_limits(held, stored, now)
        if held.ending is not None and now >= held.killed_at:
            end(held.process, signal.SIGKILL)

    def _leave(self, held: _Held) -> None:
        """Stop watching a worker whose run has ended; end one whose run was given up, perhaps to another worker."""
        found = self._ledger.runs.get(held.run.run_id)
        if found.has_ended and found.attempt == held.run.attempt:
            held.ending = ("abandoned", "its worker did not exit after the run")
            held.killed_at = self._monotonic() + self.GRACE_SECONDS
        else:
            self._end(held, "abandoned", "it was given up", grace=0.0)

    def _hold_to_limits(self, held: _Held, stored: Run, now: float) -> None:
        definition = held.run.definition
        resident = resident_mb(held.process)
        held.peak_mb = max(held.peak_mb, resident)
        if held.peak_mb > held.noted_mb + _MB_WORTH_NOTING:
            held.noted_mb = held.peak_mb
            self._ledger.runs.note_memory(held.run, round(held.peak_mb, 1))
        limit = definition.memory_mb
        if stored.cancel_asked_at is not None:
            self._end(held, "cancelled", "it was cancelled")
        elif limit is not None and resident > limit:
            message = f"[run.out_of_memory] it used {resident:,.0f} MB of the {limit:,.0f} that its memory_limit allows"
            self._end(held, "failed", message, grace=0.0)  # memory may run out within the grace period
        elif now > held.ends_at:
            self._end(held, "failed", f"[run.timed_out] it exceeded its time_limit of {definition.time_limit}")

    def _end(self, held: _Held, outcome: Outcome, reason: str, grace: float | None = None) -> None:
        held.ending = (outcome, reason)
        held.killed_at = self._monotonic() + (self.GRACE_SECONDS if grace is None else grace)
        end(held.process, signal.SIGTERM)

    def _ended(self, held: _Held) -> None:
        end(held.process, signal.SIGKILL)  # its orphaned children
        code = held.child.wait() if held.child is not None else None
        message = "its worker died" + (f" with exit code {code}" if code is not None else "")
        outcome, reason = held.ending or ("abandoned", message)
        # If the worker could still record the end of its run, this has no effect.
        self._finish(held, outcome, reason)
        del self._held[held.run.run_id]

    def _adopt(self, running: dict[int, Run]) -> None:
        """Adopt runs of this machine whose host is gone."""
        for run in running.values():
            if run.host != self._machine or run.pid is None:
                continue
            process = find(run.pid, "worker", str(run.run_id))
            if process is None:
                if not self._others_here():  # else its own host will record the outcome
                    self._lose(run)
            elif parent(process) not in self._others_here():
                _LOG.info("run %d is adopted by this worker host", run.run_id)
                try:
                    self._hold(run, process, None)
                except ForecastError as error:  # another release started it with limits that this one cannot read
                    end(process, signal.SIGKILL)
                    self._ledger.runs.finish(run, "failed", self._clock.now(), f"[{error.code}] {error}")

    def _others_here(self) -> set[int]:
        """Return the pids of the other worker hosts of this machine."""
        return {
            one.pid for one in self._ledger.hosts.known() if one.machine == self._machine and one.name != self._me.name
        }

    def _lose(self, run: Run) -> None:
        reason = "its worker died, and its worker host with it"
        state = self._ledger.runs.finish(run, "abandoned", self._clock.now(), reason, retry=True)
        if state is not None:  # else it has just ended
            _LOG.warning("run %d: %s; it is %s now", run.run_id, reason, state)

    def _take(self) -> bool:
        trainings, others = self._places
        run = self._ledger.runs.take(self._machine, self._clock.now(), trainings=trainings, others=others)
        if run is None:
            return False
        try:
            child = self._start(run)
        except (OSError, psutil.Error, ForecastError) as error:
            reason = f"its worker could not be started ({error})"
            state = self._ledger.runs.finish(run, "failed", self._clock.now(), reason, retry=True)
            _LOG.error("run %d: %s; it is %s now", run.run_id, reason, state)  # one line per run instead of a traceback
            return True
        _LOG.info("run %d of %s for %s starts", run.run_id, run.job, run.logical_date)
        self._hold(run, psutil.Process(child.pid), child)
        return True

    def _start(self, run: Run) -> subprocess.Popen[bytes]:
        """Start the worker process of an attempt; its output goes to the home's ``logs``."""
        log = self._installation.home.run_log(run.run_id)
        command = [
            sys.executable, "-m", "forecast", "worker", "run", str(run.run_id), "--attempt", str(run.attempt),
            "--home", str(self._installation.home.path),
        ]  # fmt: skip
        budget = str(run.definition.cores or (cores() if run.kind == Weight.TRAINING else 1))
        environment = {**os.environ, "FORECAST_CORES": budget, "OMP_NUM_THREADS": budget, "POLARS_MAX_THREADS": budget}
        with log.open("ab") as stream:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives its host, and signals reach its children too
                env=environment,
            )
        if run.kind == Weight.TRAINING and os.name != "nt":
            with suppress(OSError):  # the process has already ended
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, child.pid, min(own + TRAINING_NICENESS, 19))
        self._ledger.runs.started(run, child.pid, str(log))
        return child

    def _hold(self, run: Run, process: psutil.Process, child: subprocess.Popen[bytes] | None) -> None:
        begun = run.started_at or self._clock.now()
        used = (self._clock.now() - begun).total_seconds()
        self._held[run.run_id] = _Held(run, process, child, self._monotonic() + run.definition.seconds - max(used, 0.0))

    def _finish(self, held: _Held, outcome: Outcome, reason: str) -> None:
        state = self._ledger.runs.finish(held.run, outcome, self._clock.now(), reason, retry=outcome != "cancelled")
        if state is not None:
            _LOG.warning("run %d: %s; it is %s now", held.run.run_id, reason, state)

    def _hand_back(self, held: _Held) -> None:
        outcome, reason = held.ending or ("handed_back", "its worker host was stopped; the next one continues it")
        try:
            self._finish(held, outcome, reason)
        except ForecastError as error:  # the watchdog will notice the missing heartbeats
            _LOG.error("%s [%s]", error, error.code)

    def _wait(self, held: _Held, seconds: float) -> None:
        watched = held.process if held.child is None else held.child
        try:
            watched.wait(seconds)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            end(held.process, signal.SIGKILL)
            watched.wait(self.GRACE_SECONDS)
        except psutil.Error:  # the process has already ended
            pass
        end(held.process, signal.SIGKILL)  # its orphaned children
