"""Examine an installation: each entry of ``CHECKS`` checks one thing and gives a remedy for what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from forecast.errors import ForecastError
from pipelines.doctor import data, machine, work
from pipelines.doctor.finding import Diagnosis
from pipelines.doctor.subject import Subject

Check = Callable[[Subject], Iterator[Diagnosis]]

CHECKS: Final[Mapping[str, Check]] = {
    "packages": machine.packages,
    "kernels": machine.kernels,
    "home": machine.home,
    "disk": machine.disk,
    "ports": machine.ports,
    "time zones": machine.time_zones,
    "config file": data.config_file,
    "ledger": data.ledger,
    "clock": data.clock,
    "MLflow": data.tracking,
    "lake": data.lake,
    "champions": data.champions,
    "forecasts": data.forecasts,
    "scheduler": work.scheduler,
    "worker hosts": work.worker_hosts,
    "runs": work.runs,
}
"""All checks in order; a ``ForecastError`` raised by a check counts as a fault."""


def examine(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> list[Diagnosis]:
    """Run every check; an error that several checks raise is reported once.

    >>> from pathlib import Path
    >>> with Subject(Path("no-such-folder")) as subject:
    ...     [found.code for found in examine(subject, {name: CHECKS[name] for name in ("home", "config file")})]
    ['home.not_found']
    """
    findings: list[Diagnosis] = []
    reported: set[str] = set()
    for about, check in checks.items():
        try:
            findings += check(subject)
        except ForecastError as error:
            if str(error) not in reported:
                findings.append(
                    Diagnosis(about, "fault", error.fact, error.code, error.remedy or "follow the hint above")
                )
            reported.add(str(error))
    return findings
