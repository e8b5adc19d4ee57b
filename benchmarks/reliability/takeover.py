"""How long it takes until another scheduler takes over, and until a worker that died with its machine is given up."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.fleet import Fleet, kill, wait_for
from benchmarks.reliability.home import BY_HAND
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER


def takeovers(home: Path, count: int) -> Iterator[float]:
    """Kill the scheduler that holds the lease, so many times: seconds until another one has it."""
    installation = Installation.open(home)
    ledger = installation.ledger
    with ledger, Fleet(home) as fleet:

        def holder() -> str | None:
            """Return which of ours has the lease."""
            lease = ledger.leases.get(SCHEDULER)
            number = lease[0].split(":")[1] if lease else ""
            return next((one for one in names if str(fleet.pid(one)) == number), None)

        names = ("first", "second")
        for name in names:
            fleet.start(name, "schedule")
        for _ in range(count):
            wait_for(holder, "a scheduler to lead")
            leader = holder() or names[0]
            # The other one must be there already: a scheduler that is only starting is no second one.
            _wait_until_ready(home, names[leader == names[0]])
            fleet.kill(leader)
            other = names[leader == names[0]]
            yield wait_for(lambda other=other: holder() == other, "a takeover")  # type: ignore[misc]
            _forget_log(home, leader)
            fleet.start(leader, "schedule")


def silences(home: Path, count: int) -> Iterator[float]:
    """Kill a worker and its host on another machine at once, so many times: seconds until its run is given up."""
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
            if state == "running":  # or it ended in the last moment
                yield wait_for(lambda run_id=run_id: ledger.runs.get(run_id).state != "running", "a silence")  # type: ignore[misc]


def _wait_until_ready(home: Path, name: str) -> None:
    log = home / "logs" / f"{name}.log"
    wait_for(lambda: "waits" in log.read_text() or "schedules" in log.read_text(), f"{name} to beat")


def _forget_log(home: Path, name: str) -> None:
    (home / "logs" / f"{name}.log").unlink(missing_ok=True)
