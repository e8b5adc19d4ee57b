"""State of the scheduler, the worker hosts and the runs, refreshed from the ledger every 5 s."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from api.observability.metrics import Gauge
from forecast.installation import Installation
from forecast.ledger.run import SHOWN
from forecast.scheduling.lease import SCHEDULER

_SILENT_SECONDS = 15.0


class Operations:
    """Follows whether the scheduler and a worker host are alive.

    A component is alive while its heartbeat keeps changing. Only this process's monotonic clock is used, so the clocks
    of the machines need not agree.
    """

    def __init__(self, installation: Installation, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._installation = installation
        self._monotonic = monotonic
        self._counts: Mapping[str, int] = {}
        self._lease: object = None
        self._hosts: object = None
        self._moved: dict[str, float] = {}
        self._has_jobs = False

    def refresh(self) -> None:
        """Read the ledger."""
        ledger = self._installation.ledger
        self._has_jobs = bool(self._installation.config.jobs) or bool(ledger.jobs.states())
        self._counts = ledger.runs.counts()
        lease, hosts = (
            ledger.leases.get(SCHEDULER),
            tuple((host.name, host.heartbeat_at) for host in ledger.hosts.known()),
        )
        now = self._monotonic()
        if lease != self._lease:
            self._moved["scheduler"] = now
        if hosts != self._hosts:
            self._moved["worker"] = now
        self._lease, self._hosts = lease, hosts

    def reasons(self) -> list[str]:
        """Return codes of reasons why no further forecast will be issued; empty without jobs."""
        if not self._has_jobs:
            return []
        reasons = []
        if self._lease is None:
            reasons.append("scheduler.absent")
        elif self._is_silent("scheduler"):
            reasons.append("scheduler.stalled")
        if not self._hosts or self._is_silent("worker"):
            reasons.append("worker.absent")
        return reasons

    def gauges(self) -> Iterator[Gauge]:
        """Return the number of runs in each state, and whether scheduler and workers are alive."""
        for state in (*SHOWN, "coalesced"):
            yield Gauge(
                "forecast_runs", "Runs in the ledger by state.", self._counts.get(state, 0), (("state", state),)
            )
        yield Gauge("forecast_queue_length", "Runs that wait for a worker.", self._counts.get("queued", 0))
        reasons = self.reasons()
        for part, codes in (("scheduler", ("scheduler.absent", "scheduler.stalled")), ("worker", ("worker.absent",))):
            alive = self._has_jobs and not any(code in reasons for code in codes)
            yield Gauge("forecast_part_alive", "Whether a part of the installation is alive.", alive, (("part", part),))

    def _is_silent(self, part: str) -> bool:
        return self._monotonic() - self._moved.get(part, self._monotonic()) > _SILENT_SECONDS
