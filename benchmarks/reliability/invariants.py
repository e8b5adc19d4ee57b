"""Invariants that hold at any moment, checked in ledger and lake by a process that is never killed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import polars as pl

from benchmarks.reliability.account import all_runs, wrong_dates, wrong_ends
from benchmarks.reliability.dates import at_wall_times, every_hour
from benchmarks.reliability.home import PUSHED, REPLAYED, ROLLING, ROUNDS, SERIES
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.ledger.receipts import Receipt
from forecast.runtime.model import load

Pushed = Mapping[tuple[str, datetime], float]
"""The load of every pushed and acknowledged row, by series and time."""


def wrong(installation: Installation, pushed: Pushed, *, is_over: bool = False) -> list[str]:
    """Report violated invariants; at the end, missing dates and unfinished runs are violations too."""
    return [
        *_jobs(installation, is_over=is_over),
        *_champion(installation),
        *_issuance(installation),
        *_observations(installation, pushed),
    ]


def _jobs(installation: Installation, *, is_over: bool) -> Iterator[str]:
    ledger = installation.ledger
    runs, states = all_runs(ledger), ledger.jobs.states()
    for job in (ROLLING, ROUNDS):
        if job not in states:
            continue
        ours = [run for run in runs if run.job == job]
        since = states[job].since
        until = max((run.due_at for run in ours if run.due_at is not None), default=since)
        if is_over:
            until = installation.dataset(REPLAYED).clock.now()
        hours = range(0, 24, 6)
        expected = (
            every_hour(0, "UTC", since, until) if job == ROLLING else at_wall_times(hours, 0, "UTC", since, until)
        )
        yield from (f"{job}: {message}" for message in wrong_dates(ours, expected))
    yield from wrong_ends(ledger, is_over=is_over)


def _champion(installation: Installation) -> Iterator[str]:
    champion = installation.ledger.champions.current(REPLAYED)
    if champion is None:
        yield "there is no champion"
        return
    try:
        load(installation.home.models / champion.folder, champion.digest)
    except ForecastError as error:
        yield f"the champion cannot be loaded: {error}"


def _issuance(installation: Installation) -> Iterator[str]:
    issuance = installation.ledger.issuances.latest(REPLAYED)
    if issuance is None:
        return
    try:
        rows = installation.dataset(REPLAYED).forecasts.read(issuance.forecast_id, issuance.issued_at)
    except ForecastError as error:
        yield f"the latest forecast cannot be read: {error}"
        return
    wanted = len(SERIES) * len(installation.config.datasets[REPLAYED].targets) * issuance.horizon
    if len(rows) != wanted or rows.select("series", "channel", "lead").is_duplicated().any():
        yield f"the latest forecast has {len(rows)} rows, not {wanted}"


def _observations(installation: Installation, pushed: Pushed) -> Iterator[str]:
    # Read before the rows: an ingestion may end in between, and rows beyond the acknowledged ones are no loss.
    receipts = installation.ledger.receipts.latest(REPLAYED, limit=100_000)
    for dataset in (REPLAYED, PUSHED):
        table = installation.dataset(dataset).observations
        try:
            rows = table.read() if table.exists else None
        except ForecastError as error:
            yield f"the observations of {dataset} cannot be read: {error}"
            continue
        if rows is not None and rows.select("series", "time").is_duplicated().any():
            yield f"{dataset} has rows twice"
        if dataset == PUSHED and pushed:
            yield from _lost(rows, pushed)
        if dataset == REPLAYED and rows is not None:
            yield from _gaps(receipts, rows)


def _lost(rows: pl.DataFrame | None, pushed: Pushed) -> Iterator[str]:
    there = {} if rows is None else {(row["series"], row["time"]): row["load"] for row in rows.iter_rows(named=True)}
    for key, load_ in pushed.items():
        if there.get(key) != load_:
            yield f"an acknowledged row of {key[0]} at {key[1]} is {there.get(key, 'lost')}, not {load_}"


def _gaps(receipts: Iterable[Receipt], rows: pl.DataFrame) -> Iterator[str]:
    """Report lost rows: the table must hold at least as many rows as all receipts count as new."""
    # After a merge that was killed before its receipt, the next ingestion counts the rows as unchanged. So the table
    # may hold more rows than the receipts count, never fewer.
    acknowledged = sum(receipt.new for receipt in receipts)
    if len(rows) < acknowledged:
        yield f"{len(rows)} rows are left of {acknowledged} acknowledged ones"
