"""Examine an installation: each line of ``CHECKS`` looks at one thing and says what to do about what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from forecast.config.file import ConfigFile, load_config_file
from forecast.errors import ForecastError
from forecast.home import Home, find_home
from forecast.installation import Installation
from forecast.ledger import Ledger
from pipelines.doctor import data, machine, work
from pipelines.doctor.finding import Diagnosis


class Patient:
    """An installation that may be broken anywhere: each part is opened by whoever needs it first."""

    def __init__(self, given: Path | None, *, deep: bool = False, port: int = 8000, ui_port: int = 5000) -> None:
        self._given = given
        self._open = ExitStack()
        self.deep = deep
        self.port = port
        self.ui_port = ui_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def home(self) -> Home:
        """The home."""
        return find_home(self._given)

    @cached_property
    def config(self) -> ConfigFile:
        """The config file."""
        return load_config_file(self.home.config_file)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened as every command does."""
        return self._open.enter_context(Ledger.open(self.home.ledger_url))

    @cached_property
    def installation(self) -> Installation:
        """All of it together."""
        return Installation(self.home, self.config, self.ledger)


Check = Callable[[Patient], Iterator[Diagnosis]]

CHECKS: Final[Mapping[str, Check]] = {
    "packages": machine.packages,
    "kernels": machine.kernels,
    "home": machine.home,
    "disk": machine.disk,
    "ports": machine.ports,
    "time zones": machine.time_zones,
    "job file": data.job_file,
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
"""What is looked at, in this order; an error that a check meets is a fault by itself."""


def examine(patient: Patient, checks: Mapping[str, Check] = CHECKS) -> list[Diagnosis]:
    """Make every check; what several of them cannot do for the same reason is told once."""
    findings: list[Diagnosis] = []
    message: set[str] = set()
    for about, check in checks.items():
        try:
            findings += check(patient)
        except ForecastError as error:
            if str(error) not in message:
                findings.append(Diagnosis(about, "fault", error.fact, error.code, error.remedy or "mend it as it says"))
            message.add(str(error))
    return findings
