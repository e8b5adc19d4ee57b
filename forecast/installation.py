"""One installation, opened: its home, its job file, its ledger, and the tables and clock of each data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from forecast.clock import Clock, ReplayClock, SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.config.file import ConfigFile, load_config_file
from forecast.config.splits import instant
from forecast.home import Home, find_home
from forecast.lake.forecasts import Forecasts
from forecast.lake.observations import Observations
from forecast.lake.quarantine import Quarantine
from forecast.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Installation:
    """What every command and the service start from."""

    home: Home
    config: ConfigFile
    ledger: Ledger

    @classmethod
    def open(cls, given: Path | None) -> Self:
        """Open the home that is given, named by the environment, or the current folder."""
        home = find_home(given)
        return cls(home, load_config_file(home.job_file), Ledger.open(home.ledger_url))

    def observations(self, dataset: str) -> Observations:
        """Return the table of a data set's observations."""
        return Observations(self.home.tables, self.home.locks, dataset, tuple(self.config.datasets[dataset].channels))

    def forecasts(self, dataset: str) -> Forecasts:
        """Return the table of a data set's issued forecasts."""
        return Forecasts(self.home.tables, self.home.locks, dataset)

    def quarantine(self, dataset: str) -> Quarantine:
        """Return the table of a data set's rows that were put aside."""
        return Quarantine(self.home.tables, self.home.locks, dataset)

    def tables(self, dataset: str) -> Mapping[str, Observations | Forecasts | Quarantine]:
        """Return all tables of a data set by what they hold."""
        return {
            "observations": self.observations(dataset),
            "forecasts": self.forecasts(dataset),
            "quarantine": self.quarantine(dataset),
        }

    def clock(self, dataset: str) -> Clock:
        """Return the clock of a data set: the machine's, or its replay's."""
        start = replay_start(self.config.datasets[dataset])
        return SystemClock() if start is None else ReplayClock(lambda: self.ledger.clocks.position(dataset, start))


def replay_start(config: DatasetConfig) -> datetime | None:
    """Return the UTC time at which a data set's replay begins; ``None`` if it is not a replay."""
    if config.replay is None:
        return None
    return instant(config.replay.start, config.schedule_tz)
