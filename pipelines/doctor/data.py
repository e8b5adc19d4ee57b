"""Checks of the stored state: config file, ledger, clock, MLflow, tables, champions, forecasts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from forecast.clock import SystemClock
from forecast.errors import ForecastError, StorageError
from forecast.runtime.model import load
from forecast.vocabulary import parse_duration
from pipelines.doctor.finding import Diagnosis, Level
from pipelines.doctor.subject import Subject
from pipelines.ingestion.lost_version import lost_version
from pipelines.maintenance.maintain import check_tables

_SLOW_SECONDS = 0.5
_AHEAD = timedelta(minutes=1)
_LEASE = "doctor"


def config_file(subject: Subject) -> Iterator[Diagnosis]:
    """Read the config file."""
    datasets, jobs = subject.config.datasets, subject.config.jobs
    message = f"{len(datasets)} data sets ({', '.join(datasets)}), {len(jobs)} jobs"
    yield Diagnosis("config file", "well", message)


def ledger(subject: Subject) -> Iterator[Diagnosis]:
    """Open the ledger, write a row and delete it again."""
    opened, me = subject.ledger, f"{_LEASE}:{os.getpid()}"
    begun = time.perf_counter()
    opened.leases.take(me, me, None)
    opened.leases.release(me, me)
    seconds = (time.perf_counter() - begun) / 2
    message = f"writable, {1000 * seconds:.0f} ms per transaction"
    if seconds > _SLOW_SECONDS:
        remedy = "check the disk, the network to the database, and its open connections"
        yield Diagnosis("ledger", "warning", message, "ledger.slow", remedy)
    else:
        yield Diagnosis("ledger", "well", message)


def clock(subject: Subject) -> Iterator[Diagnosis]:
    """Compare the machine's clock with recorded times, and its rate with the monotonic clock."""
    begun, started = SystemClock().now(), time.monotonic()
    newest = _newest_recorded(subject)
    time.sleep(0.05)
    now = SystemClock().now()
    drift = abs((now - begun).total_seconds() - (time.monotonic() - started))
    if newest is not None and newest > now + _AHEAD:
        message = (
            f"the clock shows {now:%Y-%m-%d %H:%M:%S} UTC, but the ledger has a record of {newest:%Y-%m-%d %H:%M:%S}"
        )
        yield Diagnosis("clock", "fault", message, "clock.behind", "set the clock of every machine (NTP)")
    elif drift > 1:
        message = f"the clock moved by {drift:.1f} s during the check"
        yield Diagnosis("clock", "warning", message, "clock.jumps", "let NTP slew it")
    else:
        yield Diagnosis("clock", "well", f"{now:%Y-%m-%d %H:%M:%S} UTC, not before any recorded time")


def tracking(subject: Subject) -> Iterator[Diagnosis]:
    """Compare MLflow's aliases with the ledger's champions."""
    home = subject.home
    if home.tracking_uri.startswith("sqlite:") and not (home.path / "mlflow.db").exists():
        yield Diagnosis("MLflow", "well", "nothing is tracked yet")
        return
    from forecast.tracking.registry import Registry

    registry = Registry(home)
    for dataset in subject.installation.datasets:
        name, champion = dataset.name, dataset.champion
        alias = registry.aliases(name).get("champion")
        if champion is not None and alias is not None and alias != champion.model_version:
            message = f"the champion of {name} is {alias} in MLflow, but {champion.model_version} in the ledger"
            yield Diagnosis(
                "MLflow",
                "warning",
                message,
                "tracking.alias",
                "nothing to do: the ledger decides, and the next night repairs the alias",
            )
            return
    yield Diagnosis("MLflow", "well", "reachable, and its aliases match the ledger's champions")


def lake(subject: Subject) -> Iterator[Diagnosis]:
    """Open the latest version of every table; with ``--deep`` verify every file."""
    for dataset in subject.installation.datasets:
        name, observations = dataset.name, dataset.observations
        if not observations.exists:
            remedy = f'run "forecast ingest {name}"'
            yield Diagnosis("lake", "warning", f"{name} has no rows", "history.empty", remedy)
            continue
        observations.require_channels()
        if subject.deep:
            damages = check_tables(dataset)
        else:
            lost = lost_version(dataset)
            damages = () if lost is None else (lost,)
        for damage in damages:
            level: Level = "fault" if damage.code == "lake.corrupt" else "warning"
            fact, _, remedy = damage.message.partition("; ")
            yield Diagnosis("lake", level, fact, damage.code, remedy)
        if not damages:
            message = "every file matches its digest" if subject.deep else 'opens; "--deep" verifies every file'
            yield Diagnosis("lake", "well", f"{name}, version {observations.version}: {message}")


def champions(subject: Subject) -> Iterator[Diagnosis]:
    """Load every champion as the service does: check its digest and its golden example."""
    for dataset in subject.installation.datasets:
        name, champion = dataset.name, dataset.champion
        if champion is None:
            remedy = f'run "forecast train {name}"'
            yield Diagnosis("champions", "warning", f"{name} has no champion", "forecast.no_champion", remedy)
            continue
        try:
            load(subject.home.models / champion.folder, champion.digest)
        except ForecastError as error:
            yield Diagnosis("champions", "fault", error.fact, error.code, error.remedy)
        else:
            yield Diagnosis("champions", "well", f"{champion.model_version} of {name} reproduces its golden example")


def forecasts(subject: Subject) -> Iterator[Diagnosis]:
    """Read the latest forecast of every data set and check its age."""
    for dataset in subject.installation.datasets:
        name, config = dataset.name, dataset.config
        issuance = subject.ledger.issuances.latest(name)
        if issuance is None:
            remedy = f'run "forecast forecast {name}"'
            yield Diagnosis("forecasts", "warning", f"{name} has no forecast", "forecast.none_yet", remedy)
            continue
        rows = len(dataset.forecasts.read(issuance.forecast_id, issuance.issued_at))
        if not rows or rows % (issuance.horizon * len(config.targets)):
            message = f"forecast {issuance.forecast_id} of {name} is incomplete: the lake has {rows} rows of it"
            raise StorageError(
                "forecast.incomplete", message, "restore the lake from a backup, or issue another forecast"
            )
        age = dataset.clock.now() - issuance.issued_at
        message = f"the latest forecast of {name} was issued {_age_label(age)} ago"
        if age >= parse_duration(config.stale_after):
            remedy = f'run "forecast ingest {name}" and "forecast forecast {name}", and check that their job runs'
            yield Diagnosis("forecasts", "warning", f"{message} and is stale", "forecast.stale", remedy)
        else:
            yield Diagnosis("forecasts", "well", message)


def _newest_recorded(subject: Subject) -> datetime | None:
    found = [host.heartbeat_at for host in subject.ledger.hosts.known()]
    found += [run.claimed_at for run in subject.ledger.runs.find(limit=1)]
    for name in subject.config.datasets:
        issuance = subject.ledger.issuances.latest(name)
        found += [] if issuance is None else [issuance.recorded_at]
        found += [receipt.recorded_at for receipt in subject.ledger.receipts.latest(name, 1)]
    return max(found, default=None)


def _age_label(age: timedelta) -> str:
    minutes = max(int(age.total_seconds()) // 60, 0)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
