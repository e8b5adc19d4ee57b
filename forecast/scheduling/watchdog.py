"""Watchdog of workers: a run without heartbeats is given up and retried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from forecast.ledger import Ledger
from forecast.ledger.run import Run
from forecast.scheduling.processes import find, machine

_LOG = logging.getLogger(__name__)


class Watchdog:
    """Watches the heartbeats of all running runs; only this process's monotonic clock measures their age."""

    SILENT_SECONDS: ClassVar[float] = 10.0
    """Time without a heartbeat after which a worker counts as dead; workers send one every two seconds."""
    PATIENT_SECONDS: ClassVar[float] = 60.0
    """The same for a worker whose process is visibly alive: it may be inside one long call."""
    ASLEEP_SECONDS: ClassVar[float] = 30.0
    """After a longer pause between two checks this process itself was suspended, perhaps with the workers: all ages
    start again."""

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._machine = machine()
        self._seen: dict[int, tuple[tuple[int, datetime | None], float]] = {}
        """By run: attempt and heartbeat, and the monotonic time at which this heartbeat was first seen."""
        self._looked_at = monotonic()

    def check(self, now: datetime) -> list[Run]:
        """Check all heartbeats once; returns the runs that were given up."""
        running = self._ledger.runs.find(states=("running",), limit=10_000)
        seen, given_up = {}, []
        if self._monotonic() - self._looked_at > self.ASLEEP_SECONDS:
            self._seen.clear()
        self._looked_at = self._monotonic()
        for run in running:
            pulse = (run.attempt, run.heartbeat_at)
            first = self._seen.get(run.run_id)
            since = first[1] if first is not None and first[0] == pulse else self._monotonic()
            silent = self._monotonic() - since
            if silent > self.SILENT_SECONDS and (silent > self.PATIENT_SECONDS or not self._lives(run)):
                reason = f"its worker on {run.host} sent no heartbeat for {silent:.0f} s"
                state = self._ledger.runs.finish(run, "abandoned", now, reason, retry=True)
                if state is not None:  # else it has just ended
                    _LOG.warning("run %d: %s; it is %s now", run.run_id, reason, state)
                    given_up.append(run)
            else:
                seen[run.run_id] = (pulse, since)
        self._seen = seen
        return given_up

    def _lives(self, run: Run) -> bool:
        return (
            run.host == self._machine and run.pid is not None and find(run.pid, "worker", str(run.run_id)) is not None
        )
