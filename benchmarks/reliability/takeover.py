"""Seconds until another scheduler takes over, and until the run of a worker that died with its machine is closed."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.fleet import Fleet, kill, wait_for
from benchmarks.reliability.home import BY_HAND
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER


def takeovers(home: Path, count: int) -> Iterator[float]:
    """Kill the scheduler that holds the lease; returns the seconds until another one holds it, once per kill."""
    installation = Installation.open(home)
    ledger = installation.ledger
    with ledger, Fleet(home) as fleet:

        def holder() -> str | None:
            """Return the name of the scheduler that holds the lease."""
            lease = ledger.leases.get(SCHEDULER)
            number = lease[0].split(":")[1] if lease else ""
            return next((one for one in names if str(fleet.pid(one)) == number), None)

        names = ("first", "second")
        for name in names:
            fleet.start(name, "schedule")
        for _ in range(count):
            wait_for(holder, "a scheduler to lead")
            leader = holder() or names[0]
            # The other scheduler must already run; one that is still starting cannot take over.
            _wait_until_ready(home, names[leader == names[0]])
            fleet.kill(leader)
            other = names[leader == names[0]]
            yield wait_for(lambda other=other: holder() == other, "a takeover")  # type: ignore[misc]
            _forget_log(home, leader)
            fleet.start(leader, "schedule")


def silences(home: Path, count: int) -> Iterator[float]:
    """Kill a worker with its host on another machine; returns the seconds until its run is closed, once per kill."""
    installation = Installation.open(home)
    ledger, book = installation.ledger, JobBook(installation)
    with ledger, Fleet(home) as fleet:
        fleet.start("schedule", FORECAST_MACHINE="near")
        for _ in range(count):
            fleet.start("work", FORECAST_MACHINE="far")
            run_id = book.run_now(BY_HAND)
            wait_for(lambda run_id=run_id: ledger.runs.get(run_id).state == "running", "a run to begin")  # type: ignore[misc]
            wait_for(fleet.workers, "its worker")
            fleet.kill("work")
            for worker in fleet.workers():
                kill(worker)
            state = ledger.runs.get(run_id).state
            if state == "running":  # otherwise it ended just before
                yield wait_for(lambda run_id=run_id: ledger.runs.get(run_id).state != "running", "a silence")  # type: ignore[misc]


def _wait_until_ready(home: Path, name: str) -> None:
    log = home / "logs" / f"{name}.log"
    wait_for(lambda: "waits" in log.read_text() or "schedules" in log.read_text(), f"{name} to beat")


def _forget_log(home: Path, name: str) -> None:
    (home / "logs" / f"{name}.log").unlink(missing_ok=True)
