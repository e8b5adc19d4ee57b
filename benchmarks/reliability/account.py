"""Accounting of runs: the ledger's record of each date, compared with the expected dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from forecast.ledger import Ledger
from forecast.ledger.run import ENDED, Run

_ENDED = frozenset(ENDED) - {"coalesced"}


def wrong_dates(runs: list[Run], expected: Mapping[str, datetime]) -> Iterator[str]:
    """Report the dates of a job that are duplicate, missing or unexpected."""
    counted = Counter(run.logical_date for run in runs)
    for date, count in counted.items():
        if count > 1:
            yield f"{date} is there {count} times"
    for date in expected.keys() - counted.keys():
        yield f"{date} is lost"
    for date in counted.keys() - expected.keys():
        yield f"{date} is none of its dates"
    for run in runs:
        if expected.get(run.logical_date, run.due_at) != run.due_at:
            yield f"{run.logical_date} was due at {expected[run.logical_date]}, not {run.due_at}"


def wrong_ends(ledger: Ledger, *, is_over: bool = True) -> Iterator[str]:
    """Report runs that ended more than once, overlapped with a run of their job, or at the end have not ended."""
    # Runs go on while they are read: one that is not ended had no end before, one that is has its end by afterwards.
    before = _ends(_states(ledger))
    by_id = {run.run_id: run for run in all_runs(ledger)}
    states = list(_states(ledger))
    after = _ends(states)
    for run in by_id.values():
        last = run
        while last.coalesced_into is not None:
            last = by_id[last.coalesced_into]
        if is_over and not last.has_ended:
            yield f"run {run.run_id} is {run.state}"
        ends, wanted = (after, 1) if run.state in _ENDED else (before, 0)
        if ends[run.run_id] != wanted:
            yield f"run {run.run_id}, {run.state}, ended {ends[run.run_id]} times"
    yield from _side_by_side(states, by_id)


def _ends(states: Iterable[tuple[int, str]]) -> Counter[int]:
    return Counter(run_id for run_id, state in states if state in _ENDED)


def _side_by_side(states: Iterable[tuple[int, str]], runs: Mapping[int, Run]) -> Iterator[str]:
    running: dict[str, int] = {}
    for run_id, state in states:
        if run_id not in runs:  # claimed a moment ago
            continue
        job = runs[run_id].job
        if state == "running":
            if job in running:
                yield f"run {run_id} of {job} began beside {running[job]}"
            running[job] = run_id
        elif running.get(job) == run_id:
            del running[job]


def _states(ledger: Ledger) -> Iterator[tuple[int, str]]:
    """Yield the states that runs entered, in order."""
    last = 0
    while events := ledger.events.after(last, kinds=("run",), limit=5_000):
        last = events[-1].sequence
        for event in events:
            if event.run_id is not None:
                yield event.run_id, str(event.document["state"])


def all_runs(ledger: Ledger) -> list[Run]:
    """Return every run, the oldest first."""
    found: list[Run] = []
    while page := ledger.runs.find(before=found[-1].run_id if found else None, limit=5_000):
        found += page
    return found[::-1]
