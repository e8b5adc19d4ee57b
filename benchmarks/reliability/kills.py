"""Kill the service's processes at random moments, and check the invariants after each kill."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.reliability.fleet import Fleet, kill, wait_for
from benchmarks.reliability.home import BY_HAND, PUSHED, REPLAYED, rows
from benchmarks.reliability.invariants import wrong
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.ledger.run import ENDED
from forecast.scheduling.job_book import JobBook

MEMBERS = ("schedule", "work", "serve")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Kill:
    """One cycle: the killed processes and the violations found afterwards."""

    number: int
    seconds: float
    """Seconds since the first cycle began."""
    killed: str
    runs: int
    ended: int
    issued: int
    acknowledged: int
    """Rows pushed and acknowledged so far."""
    wrong: int
    first: str


class KillTest:
    """A series of kills in one home. Random numbers are seeded; only the timing differs between runs."""

    def __init__(self, home: Path, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # seeded on purpose
        self._installation = Installation.open(home)
        self._book = JobBook(self._installation)
        self._fleet = Fleet(home)
        self._pushed: dict[tuple[str, datetime], float] = {}
        self._hour = 0
        self._begun = time.monotonic()

    def close(self) -> None:
        """End all processes."""
        self._fleet.__exit__(None, None, None)
        self._installation.ledger.close()

    def workers(self, count: int) -> Iterator[Kill]:
        """Kill single workers at any point of their work; scheduler and worker host continue."""
        for name in ("schedule", "work"):
            self._fleet.start(name)
        number = 0
        while number < count:
            wait_for(self._fleet.workers, "a worker")
            worker = self._random.choice(self._fleet.workers() or [None])
            if worker is not None and self._killed_after(
                worker, self._random.choice((0.6, 1.6, 1.6)) * self._random.uniform(0.5, 1.3)
            ):
                number += 1
                # Reading a ledger of thousands of runs after each of hundreds of kills would take too long.
                if number % 10 == 0 or number == count:
                    yield self._look(number, "worker")
        self._fleet.kill("schedule", "work")

    def everything(self, count: int) -> Iterator[Kill]:
        """Kill one, some or all processes at once, and restart the killed ones."""
        for name in MEMBERS:
            self._fleet.start(name)
        for number in range(1, count + 1):
            self._pass_time()
            names = self._random.sample(MEMBERS, self._random.randint(0, len(MEMBERS)))
            workers = self._fleet.workers() if self._random.random() < 0.6 or not names else []
            self._fleet.kill(*names)
            killed = [*names, *("worker" for worker in workers if kill(worker))]
            found = self._look(number, " ".join(killed))
            for name in names:
                self._fleet.start(name)
            yield found

    def settle(self, seconds: float = 300.0) -> list[str]:
        """Wait until all runs have ended, and report the violations."""
        for name in MEMBERS:
            if not self._fleet.is_running(name):
                self._fleet.start(name)
        ledger = self._installation.ledger
        position = self._installation.dataset(REPLAYED).clock.now()
        wait_for(lambda: self._installation.dataset(REPLAYED).clock.now() > position, "the scheduler", seconds)
        self._fleet.end("schedule")
        wait_for(
            lambda: not ledger.runs.queue() and not ledger.runs.find(states=("running",)), "all runs to end", seconds
        )
        self._fleet.end("work", "serve")
        return wrong(self._installation, self._pushed, is_over=True)

    # --- one cycle --------------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        """Push rows or request runs by hand, then wait for a random time."""
        if self._random.random() < 0.3:
            self._book.run_now(BY_HAND)
        # On a machine of any speed, most workers are killed at work and some while they start.
        match self._random.choice(("push", "worker", "end", "nothing")):
            case "push":
                wait_for(self._push, "the service")
            case "worker":
                wait_for(self._fleet.workers, "a worker")
            case "end":
                ended = self._ended()
                wait_for(lambda: self._ended() > ended, "a run to end")
        until = time.monotonic() + self._random.uniform(0.0, 3.0)
        while time.monotonic() < until:
            if not self._push():
                time.sleep(0.1)

    def _ended(self) -> int:
        return sum(run.has_ended for run in self._installation.ledger.runs.find(states=ENDED, limit=1_000_000))

    def _push(self) -> bool:
        """Push the rows of the next hour, repeatedly until they are acknowledged; only then they count."""
        batch = rows(1, self._hour)
        records = [{**row, "time": row["time"].isoformat() + "Z"} for row in batch.iter_rows(named=True)]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._fleet.port}/v1/datasets/{PUSHED}/observations",
            json.dumps(records).encode(),
            {"content-type": "application/json"},
        )
        try:
            with _DIRECT.open(request, timeout=10) as answer:
                answer.read()
        except (OSError, urllib.error.URLError):
            return False
        for row in batch.iter_rows(named=True):
            self._pushed[row["site"], row["time"].replace(tzinfo=UTC)] = row["load"]
        self._hour += 1
        return True

    def _killed_after(self, worker: psutil.Process, seconds: float) -> bool:
        """Kill a worker after some seconds of processor time; returns whether it was still running."""
        try:
            while sum(worker.cpu_times()[:2]) < seconds:
                time.sleep(0.01)
        except psutil.Error:
            return False
        return kill(worker)

    def _look(self, number: int, killed: str) -> Kill:
        ledger = self._installation.ledger
        try:
            found = wrong(self._installation, self._pushed)
        except ForecastError as error:
            found = [f"[{error.code}] {error}"]
        runs = ledger.runs.find(limit=1_000_000)
        return Kill(
            number, round(time.monotonic() - self._begun, 1), killed, len(runs), sum(run.has_ended for run in runs),
            len(ledger.issuances.newest(REPLAYED, limit=1_000_000)), len(self._pushed), len(found),
            next(iter(found), ""),
        )  # fmt: skip
