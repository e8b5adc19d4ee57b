"""Calendar of jobs: the runs of the past days and the due times of the next days."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from forecast.ledger.run import Run
from forecast.scheduling.job_book import KnownJob

BEHIND, AHEAD = 14, 7
_MOST_MARKS = 4
_MOST_DUE = 2000
SIGNS = {"succeeded": "✓", "failed": "✕", "running": "▶", "queued": "…", "cancelled": "⊘", "coalesced": "≡"}


@dataclass(frozen=True, slots=True)
class RunMark:
    """A mark in one cell: a run, several runs of one state, or future due times."""

    state: str
    """State of the run; ``due`` for future due times."""
    sign: str
    message: str
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """One column of the calendar."""

    label: str
    weekday: str
    is_today: bool


@dataclass(frozen=True, slots=True)
class JobRow:
    """One row of the calendar: a job and its marks by day."""

    job: str
    marks: list[list[RunMark]]


def calendar(
    jobs: Sequence[KnownJob], runs: Sequence[Run], now: datetime, zone: tzinfo, job_zone: str
) -> tuple[list[Day], list[JobRow]]:
    """Return columns and rows of the calendar.

    Days are those of ``zone``; cron expressions without a zone are read in ``job_zone``.
    """
    today = now.astimezone(zone).date()
    dates = [today + timedelta(days=days) for days in range(-BEHIND, AHEAD + 1)]
    days = [
        Day(f"{day.day} {day:%b}" if day.day == 1 or day == dates[0] else str(day.day), f"{day:%a}", day == today)
        for day in dates
    ]
    rows = []
    for job in jobs:
        behind = [run for run in runs if run.job == job.name]
        ahead = [] if job.paused else _due(job, now, job_zone)
        rows.append(JobRow(job.name, [_marks(day, behind, ahead, zone) for day in dates]))
    return days, rows


def _due(job: KnownJob, now: datetime, zone: str) -> list[datetime]:
    cron = job.definition.cron_in(zone)
    if cron is None:
        return []
    return list(itertools.islice(cron.between(now, now + timedelta(days=AHEAD + 1)), _MOST_DUE))


def _marks(day: date, runs: Sequence[Run], due: Sequence[datetime], zone: tzinfo) -> list[RunMark]:
    there = [run for run in reversed(runs) if (run.due_at or run.claimed_at).astimezone(zone).date() == day]
    times = [time.astimezone(zone) for time in due if time.astimezone(zone).date() == day]
    if len(there) <= _MOST_MARKS:
        marks = [
            RunMark(
                run.state,
                SIGNS[run.state],
                f"run {run.run_id}, {(run.due_at or run.claimed_at).astimezone(zone):%H:%M}, {run.state}",
                run.run_id,
            )
            for run in there
        ]
    else:
        states = Counter(run.state for run in there)
        marks = [RunMark(state, f"{many}{SIGNS[state]}", f"{many} runs {state}") for state, many in states.items()]
    if len(times) <= max(_MOST_MARKS - len(marks), 1):
        marks += [
            RunMark("due", f"{time:%H:%M}" if len(times) == 1 and not marks else f"{time:%H}", f"due at {time:%H:%M}")
            for time in times
        ]
    elif times:
        marks.append(
            RunMark("due", f"{len(times)}×", f"{len(times)} due times from {times[0]:%H:%M} to {times[-1]:%H:%M}")
        )
    return marks
