"""What an installation knows: job file, ledger, clock, MLflow, tables, champions, forecasts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from forecast.clock import SystemClock
from forecast.errors import ForecastError, StorageError
from forecast.runtime.model import load
from forecast.vocabulary import parse_duration
from pipelines.doctor.finding import Diagnosis, Level
from pipelines.maintenance.maintain import check_tables
from pipelines.ingestion.lost_version import lost_version

if TYPE_CHECKING:
    from pipelines.doctor.examine import Patient

_SLOW_SECONDS = 0.5
_AHEAD = timedelta(minutes=1)
_LEASE = "doctor"


def job_file(patient: Patient) -> Iterator[Diagnosis]:
    """Read the job file."""
    datasets, jobs = patient.config.datasets, patient.config.jobs
    message = f"{len(datasets)} data sets ({', '.join(datasets)}), {len(jobs)} jobs"
    yield Diagnosis("job file", "well", message)


def ledger(patient: Patient) -> Iterator[Diagnosis]:
    """Open the ledger, write a row and take it away again."""
    opened, me = patient.ledger, f"{_LEASE}:{os.getpid()}"
    begun = time.perf_counter()
    opened.leases.take(me, me, None)
    opened.leases.release(me, me)
    seconds = (time.perf_counter() - begun) / 2
    message = f"it can be written, in {1000 * seconds:.0f} ms a transaction"
    if seconds > _SLOW_SECONDS:
        remedy = "look at the disk, the network to the database, and at who holds it"
        yield Diagnosis("ledger", "warning", message, "ledger.slow", remedy)
    else:
        yield Diagnosis("ledger", "well", message)


def clock(patient: Patient) -> Iterator[Diagnosis]:
    """Compare the machine's clock with times that were recorded, and its pace with the time that really passes."""
    begun, started = SystemClock().now(), time.monotonic()
    newest = _newest_recorded(patient)
    time.sleep(0.05)
    now = SystemClock().now()
    drift = abs((now - begun).total_seconds() - (time.monotonic() - started))
    if newest is not None and newest > now + _AHEAD:
        message = (
            f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, but something was recorded at {newest:%Y-%m-%d %H:%M:%S}"
        )
        yield Diagnosis("clock", "fault", message, "clock.behind", "set the clock, on every machine (NTP)")
    elif drift > 1:
        message = f"the clock was moved by {drift:.1f} s while it was looked at"
        yield Diagnosis("clock", "warning", message, "clock.jumps", "let NTP slew it")
    else:
        yield Diagnosis("clock", "well", f"{now:%Y-%m-%d %H:%M:%S} UTC, not before anything that was recorded")


def tracking(patient: Patient) -> Iterator[Diagnosis]:
    """Ask MLflow for the aliases of every data set, and compare them with the ledger's champions."""
    home = patient.home
    if home.tracking_uri.startswith("sqlite:") and not (home.path / "mlflow.db").exists():
        yield Diagnosis("MLflow", "well", "nothing was tracked yet")
        return
    from forecast.tracking.registry import Registry

    registry = Registry(home)
    for name in patient.config.datasets:
        champion = patient.ledger.champions.current(name)
        alias = registry.aliases(name).get("champion")
        if champion is not None and alias is not None and alias != champion.model_version:
            message = f"MLflow calls {alias} champion of {name}, the ledger {champion.model_version}"
            yield Diagnosis(
                "MLflow", "warning", message, "tracking.alias", "the next night mends it; the ledger is what counts"
            )
            return
    yield Diagnosis("MLflow", "well", "it answers, and its aliases are the ledger's champions")


def lake(patient: Patient) -> Iterator[Diagnosis]:
    """Open the latest version of every table; with ``--deep`` verify every file."""
    installation = patient.installation
    for name in patient.config.datasets:
        observations = installation.dataset(name).observations
        if not observations.exists:
            remedy = f'run "forecast ingest {name}"'
            yield Diagnosis("lake", "warning", f"{name} has no rows", "history.empty", remedy)
            continue
        observations.require_channels()
        if patient.deep:
            damages = check_tables(installation.dataset(name))
        else:
            lost = lost_version(installation.dataset(name))
            damages = () if lost is None else (lost,)
        for damage in damages:
            level: Level = "fault" if damage.code == "lake.corrupt" else "warning"
            fact, _, remedy = damage.message.partition("; ")
            yield Diagnosis("lake", level, fact, damage.code, remedy)
        if not damages:
            message = "every file is as it was written" if patient.deep else 'opens; "--deep" verifies every file'
            yield Diagnosis("lake", "well", f"{name}, version {observations.version}: {message}")


def champions(patient: Patient) -> Iterator[Diagnosis]:
    """Load every champion as the service would: by digest, and by its golden example."""
    for name in patient.config.datasets:
        champion = patient.ledger.champions.current(name)
        if champion is None:
            remedy = f'run "forecast train {name}"'
            yield Diagnosis("champions", "warning", f"{name} has no champion", "forecast.no_champion", remedy)
            continue
        try:
            load(patient.home.models / champion.folder, champion.digest)
        except ForecastError as error:
            yield Diagnosis("champions", "fault", error.fact, error.code, error.remedy)
        else:
            yield Diagnosis("champions", "well", f"{champion.model_version} of {name} answers as when it was exported")


def forecasts(patient: Patient) -> Iterator[Diagnosis]:
    """Read the latest forecast of every data set, and see how old it is."""
    installation = patient.installation
    for name, config in patient.config.datasets.items():
        issuance = patient.ledger.issuances.latest(name)
        if issuance is None:
            remedy = f'run "forecast forecast {name}"'
            yield Diagnosis("forecasts", "warning", f"{name} has no forecast", "forecast.none_yet", remedy)
            continue
        rows = len(installation.dataset(name).forecasts.read(issuance.forecast_id, issuance.issued_at))
        if not rows or rows % (issuance.horizon * len(config.targets)):
            message = f"of forecast {issuance.forecast_id} of {name} the lake has {rows} rows"
            raise StorageError(
                "forecast.incomplete", message, "restore the lake from a backup, or issue another forecast"
            )
        age = installation.dataset(name).clock.now() - issuance.issued_at
        message = f"the latest forecast of {name} was issued {_told(age)} ago"
        if age >= parse_duration(config.stale_after):
            remedy = f'run "forecast ingest {name}" and "forecast forecast {name}", and see that their job runs'
            yield Diagnosis("forecasts", "warning", f"{message}, and is stale", "forecast.stale", remedy)
        else:
            yield Diagnosis("forecasts", "well", message)


def _newest_recorded(patient: Patient) -> datetime | None:
    found = [host.heartbeat_at for host in patient.ledger.hosts.known()]
    found += [run.claimed_at for run in patient.ledger.runs.find(limit=1)]
    for name in patient.config.datasets:
        issuance = patient.ledger.issuances.latest(name)
        found += [] if issuance is None else [issuance.recorded_at]
        found += [receipt.recorded_at for receipt in patient.ledger.receipts.latest(name, 1)]
    return max(found, default=None)


def _told(age: timedelta) -> str:
    minutes = max(int(age.total_seconds()) // 60, 0)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
