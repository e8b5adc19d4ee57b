"""Kill trainings once in each reported phase: the run continues and in the end yields a champion."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.fleet import Fleet, kill, wait_for
from benchmarks.reliability.home import NIGHTLY
from benchmarks.reliability.invariants import wrong
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook


def kill_in_each_phase(home: Path, most: int, seconds: float = 900.0) -> Iterator[tuple[str, int]]:
    """Kill the worker of a training in each phase that it enters; returns the phases with their number of violations.

    The last phase is ``done``, in which no worker is killed.
    """
    installation = Installation.open(home)
    ledger = installation.ledger
    with ledger, Fleet(home) as fleet:
        fleet.start("schedule")
        fleet.start("work")
        run_id = JobBook(installation).run_now(NIGHTLY)
        killed: set[str] = set()

        def reached() -> bool:
            run = ledger.runs.get(run_id)
            return run.has_ended or (run.doing is not None and _phase(run.doing) not in killed)

        while True:
            wait_for(reached, "a phase", seconds)
            run = ledger.runs.get(run_id)
            if run.has_ended or len(killed) == most:
                break
            phase = _phase(run.doing or "")
            killed.add(phase)
            for worker in fleet.workers():
                if str(run_id) in worker.cmdline():
                    kill(worker)
            yield phase, len(wrong(installation, {}))
        wait_for(lambda: ledger.runs.get(run_id).has_ended, "the training to end", seconds)
        found = wrong(installation, {})
        if ledger.runs.get(run_id).state != "succeeded":
            found.append(f"the training {ledger.runs.get(run_id).state}: {ledger.runs.get(run_id).reason}")
        yield "done", len(found)


def _phase(doing: str) -> str:
    """Return the step without its progress."""
    return doing.partition(":")[0]
