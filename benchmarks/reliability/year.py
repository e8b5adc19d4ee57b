"""Simulation of a year with two schedulers on two machines: no date is lost and none runs twice.

Only time and workers are simulated: two real schedulers with separate connections share one ledger. They stop for hours
or days, their clocks jump, and they freeze between the decision and the claim of a date, while the other one continues.
Workers succeed, fail, die, or lose their heartbeat and resume after another worker has taken over their run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.reliability.account import all_runs, wrong_dates, wrong_ends
from benchmarks.reliability.dates import at_wall_times, every_hour
from forecast.config.jobs import Due, Job
from forecast.installation import Installation
from forecast.ledger import Ledger
from forecast.ledger.database import Database
from forecast.ledger.receipts import Receipt
from forecast.ledger.run import Run
from forecast.ledger.runs import Runs
from forecast.scheduling.lease import SCHEDULER
from forecast.scheduling.scheduler import Scheduler

ZONES = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata")
START = datetime(2027, 1, 1, 0, 7, tzinfo=UTC)
_DATASET = """
[datasets.{name}]
source = {{ kind = "push" }}
zone = "{zone}"
frequency = "1h"
series = "site"
horizons = [24]
lookback = 48
season = 24
models = ["seasonal_naive"]
splits = {{ validation = "3d", calibration = "3d", holdout = "3d" }}
channels.load = {{ role = "target", unit = "MW" }}

[jobs.{name}-nightly]
dataset = "{name}"
steps = ["retrain"]
cron = "30 2 * * *"
backoff = "20m"
retries = 2

[jobs.{name}-rounds]
dataset = "{name}"
steps = ["ingest", "forecast"]
cron = "0 */6 * * *"
catch_up = "each"

[jobs.{name}-hourly]
dataset = "{name}"
steps = ["score"]
cron = "0 * * * *"
retries = 0

[jobs.{name}-on-data]
dataset = "{name}"
steps = ["forecast"]
on = ["data"]
"""


def name_of(zone: str) -> str:
    """Return the name of the data set of a time zone."""
    return zone.partition("/")[2].lower().replace("_", "-")


class _FreezingRuns(Runs):
    """The ledger's runs, which can freeze their caller before a write."""

    freeze: Callable[[], None] | None = None

    def claim(self, job: str, definition: Job, dates: Sequence[Due], now: datetime) -> list[int]:
        if dates and self.freeze is not None:
            self.freeze()
        return super().claim(job, definition, dates, now)

    def finish(self, run: Run, *arguments: Any, **options: Any) -> str | None:
        if self.freeze is not None:
            self.freeze()
        return super().finish(run, *arguments, **options)


@dataclass(eq=False)
class _Machine:
    """A machine with a scheduler that stops and restarts, and with a clock that jumps."""

    name: str
    installation: Installation
    year: Year
    off: timedelta = timedelta()
    """Error of its clock."""
    down_until: datetime = START
    scheduler: Scheduler | None = None
    scheduler_name: str = ""
    is_frozen: bool = False
    held: dict[int, tuple[Run, str, int]] = field(default_factory=dict)
    """By run: its outcome, and the number of steps until then."""
    silent: list[Run] = field(default_factory=list)
    """Runs of workers without a heartbeat that still work."""

    def now(self) -> datetime:
        return min(self.year.now + self.off, self.year.end)


@dataclass
class Counts:
    """Counts of the simulated events."""

    steps: int = 0
    outages: int = 0
    freezes: int = 0
    jumps: int = 0
    takeovers: int = 0
    deaths: int = 0
    refused: int = 0
    """Late results of workers whose run another worker had taken over."""


class Year:
    """The simulated year, with a step every few ``hours`` on average; :meth:`run` simulates it."""

    def __init__(self, folder: Path, seed: int, zones: Sequence[str] = ZONES, hours: float = 6.0) -> None:
        self._random = random.Random(seed)  # noqa: S311  # seeded, so that a simulation can be repeated
        self.zones = tuple(zones)
        self.now, self.end = START, START + timedelta(days=365)
        self._pace = hours
        self.counts = Counts()
        self._seconds = 0.0
        self._versions = dict.fromkeys(map(name_of, zones), 0)
        self._is_quiet = False
        self._holder: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "forecast.toml").write_text(
            "".join(_DATASET.format(name=name_of(zone), zone=zone) for zone in zones), encoding="utf-8"
        )
        self._installation = Installation.open(folder)
        self.ledger = self._installation.ledger
        self._machines = [self._machine(name) for name in ("one", "two")]

    def close(self) -> None:
        """Close all connections."""
        for machine in self._machines:
            machine.installation.ledger.close()
        self.ledger.close()

    def wrong(self) -> Iterator[str]:
        """Report the violations after the end of the year."""
        runs, states = all_runs(self.ledger), self.ledger.jobs.states()
        for zone in self.zones:
            dataset = name_of(zone)
            expected = {
                "nightly": at_wall_times(range(2, 3), 30, zone, states[f"{dataset}-nightly"].since, self.end),
                "rounds": at_wall_times(range(0, 24, 6), 0, zone, states[f"{dataset}-rounds"].since, self.end),
                "hourly": every_hour(0, zone, states[f"{dataset}-hourly"].since, self.end),
            }
            for name, dates in expected.items():
                job = f"{dataset}-{name}"
                yield from (
                    f"{job}: {message}" for message in wrong_dates([run for run in runs if run.job == job], dates)
                )
            counted = Counter(run.logical_date for run in runs if run.job == f"{dataset}-on-data")
            versions = {f"data-{version}" for version in range(1, self._versions[dataset] + 1)}
            yield from (f"{dataset}-on-data: {date} is none of its dates" for date in counted.keys() - versions)
            yield from (
                f"{dataset}-on-data: {date} is there {count} times" for date, count in counted.items() if count > 1
            )
        for run in runs:
            if run.state == "coalesced" and run.job.endswith("-rounds"):
                yield f"run {run.run_id} of {run.job} was not run by itself"
        yield from wrong_ends(self.ledger)

    def run(self) -> None:
        """Simulate the year, then finish the queued runs."""
        self._step(sudden=False)  # every job is met at a time that is right
        while self.now < self.end - timedelta(days=1):
            self._step()
        self._is_quiet = True
        for machine in self._machines:
            machine.off, machine.down_until = timedelta(), self.now
        while self.now < self.end or self.ledger.runs.queue() or self.ledger.runs.find(states=("running",)):
            self._step()

    # --- time -------------------------------------------------------------------------------------------------------

    def _step(self, *, sudden: bool = True) -> None:
        self.counts.steps += 1
        self.now += timedelta(
            hours=self._random.choice((0.04, 0.16, 0.5, 3.3)) * self._random.uniform(0, 2 * self._pace)
        )
        # Heartbeats and leases run on a clock of seconds, dates on the wall clock; the first clock runs slower here.
        self._seconds += self._random.uniform(1.0, 4.0)
        if sudden and not self._is_quiet:
            self._disturb()
        for dataset in self._versions:
            self._receive(dataset)
        ticked = set()
        for machine in self._random.sample(self._machines, len(self._machines)):
            if machine.is_frozen:
                continue
            if machine.scheduler is None and self.now >= machine.down_until:
                machine.scheduler = self._scheduler(machine)
            if machine.scheduler is not None:
                freezes = self.counts.freezes
                machine.scheduler.tick()
                if freezes == self.counts.freezes:
                    ticked.add(machine.scheduler_name)
        self._see_leader(ticked)
        for machine in self._machines:
            self._work(machine)

    def _see_leader(self, ticked: set[str]) -> None:
        lease = self.ledger.leases.get(SCHEDULER)
        if lease is None or lease[0] not in ticked:
            return
        self.counts.takeovers += self._holder not in {None, lease[0]}
        self._holder = lease[0]
        for dataset, version in self._versions.items():
            if version and not self.ledger.runs.is_claimed(f"{dataset}-on-data", f"data-{version}"):
                message = f"version {version} of {dataset} was not claimed by {lease[0]} at {self.now}"
                raise AssertionError(message)

    # --- events -----------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        chance = self._random.random()
        if chance < 0.03:
            for machine in self._random.sample(self._machines, self._random.choice((1, 1, 2))):
                hours = self._random.choice((2, 10, 30, 90)) * self._random.uniform(0.5, 1.5)
                machine.scheduler, machine.down_until = None, self.now + timedelta(hours=hours)
                self.counts.outages += 1
        elif chance < 0.06:
            machine = self._random.choice(self._machines)
            machine.off = timedelta(hours=self._random.choice((0, 0, -50, -1, 1, 26, 70)))
            self.counts.jumps += 1
        elif chance < 0.10:
            waiting = self.ledger.runs.find(states=("queued", "running"), limit=5)
            if waiting:
                self.ledger.runs.cancel(self._random.choice(waiting).run_id, self.now)

    def _freeze(self, machine: _Machine) -> None:
        if self._is_quiet or machine.is_frozen or self._random.random() > 0.02:
            return
        machine.is_frozen = True
        self.counts.freezes += 1
        for _ in range(self._random.choice((1, 2, 5, 15))):
            if self.now < self.end - timedelta(days=1):
                self._step()
        machine.is_frozen = False

    def _receive(self, dataset: str) -> None:
        if self._is_quiet or self._random.random() > 0.2:
            return
        brings = self._random.random() < 0.3
        self._versions[dataset] += brings
        receipt = Receipt(
            dataset=dataset, sources=("push",), digest="", rows=3, new=3 * brings, unchanged=3 * (not brings),
            data_version=self._versions[dataset], recorded_at=self.now,
        )  # fmt: skip
        self.ledger.receipts.add(receipt)

    # --- workers ----------------------------------------------------------------------------------------------------

    def _work(self, machine: _Machine) -> None:
        ledger = self.ledger
        for run in [run for run in machine.silent if self._random.random() < 0.05]:
            machine.silent.remove(run)
            finished = ledger.runs.finish(run, "succeeded", self.now, "it woke up")
            self.counts.refused += finished is None
        for run_id, (run, fate, steps) in list(machine.held.items()):
            if not ledger.runs.beat(run, self.now, tell=False):
                del machine.held[run_id]
            elif ledger.runs.get(run_id).cancel_asked_at is not None:
                self._end(machine, run, "cancelled")
            elif steps > 0:
                machine.held[run_id] = (run, fate, steps - 1)
            else:
                self._end(machine, run, fate)
        while (run := ledger.runs.take(machine.name, self.now, trainings=1, others=8)) is not None:
            fate = self._random.choices(
                ("succeeded", "failed", "broken", "handed_back", "dead", "silent"), (80, 7, 3, 4, 4, 2)
            )[0]
            steps = self._random.choice((-1, -1, -1, -1, -1, 0, 2))
            if self._is_quiet:
                fate, steps = "succeeded", -1
            machine.held[run.run_id] = (run, fate, steps)
            if steps < 0:  # it ends before the next check
                self._end(machine, run, fate)

    def _end(self, machine: _Machine, run: Run, fate: str) -> None:
        del machine.held[run.run_id]
        match fate:
            case "dead":
                self.counts.deaths += 1
            case "silent":
                machine.silent.append(run)
            case "broken":
                self.ledger.runs.finish(run, "failed", self.now, "the rows are wrong")
            case "failed" | "handed_back":
                self.ledger.runs.finish(run, fate, self.now, "as it happens", retry=True)
            case _:
                self.ledger.runs.finish(run, "cancelled" if fate == "cancelled" else "succeeded", self.now, fate)

    # --- machines ---------------------------------------------------------------------------------------------------

    def _machine(self, name: str) -> _Machine:
        database = Database.open(self._installation.home.ledger_url)
        own = Installation(self._installation.home, self._installation.config, Ledger(database))
        machine = _Machine(name, own, self)
        own.ledger.runs = runs = _FreezingRuns(database)
        runs.freeze = lambda: self._freeze(machine)
        return machine

    def _scheduler(self, machine: _Machine) -> Scheduler:
        machine.scheduler_name = f"{machine.name}-{self.counts.steps}"
        return Scheduler(machine.installation, machine, name=machine.scheduler_name, monotonic=lambda: self._seconds)
