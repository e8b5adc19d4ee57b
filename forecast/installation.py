"""One opened installation, and one data set of it: its config, its tables, its clock and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from forecast.ledger.champions import Champion


@dataclass(frozen=True, slots=True)
class Installation:
    """What every command and the service start from: the home folder, the config file, the ledger."""

    home: Home
    config: ConfigFile
    ledger: Ledger

    @classmethod
    def open(cls, given: Path | None) -> Self:
        """Open the home at ``given``, the one named by the environment, or the current folder."""
        home = find_home(given)
        return cls(home, load_config_file(home.config_file), Ledger.open(home.ledger_url))

    def dataset(self, name: str | None = None) -> Dataset:
        """Return a data set by name, or the only one; raises ``dataset.unknown`` and ``dataset.ambiguous``."""
        name, config = self.config.dataset(name)
        return Dataset(name, config, self)

    @property
    def datasets(self) -> Iterator[Dataset]:
        """All data sets, in the order of the config file."""
        return (Dataset(name, config, self) for name, config in self.config.datasets.items())


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set of an installation; most functions of ``pipelines`` take one.

    For example, ``Installation.open(home).dataset("etth1").observations.read()`` returns its rows.
    """

    name: str
    config: DatasetConfig
    installation: Installation

    @property
    def home(self) -> Home:
        """The installation's folders."""
        return self.installation.home

    @property
    def ledger(self) -> Ledger:
        """The installation's ledger."""
        return self.installation.ledger

    @property
    def champion(self) -> Champion | None:
        """The present champion."""
        return self.ledger.champions.current(self.name)

    @property
    def observations(self) -> Observations:
        """The table of observations."""
        return Observations(self.home.tables, self.home.locks, self.name, tuple(self.config.channels))

    @property
    def forecasts(self) -> Forecasts:
        """The table of issued forecasts."""
        return Forecasts(self.home.tables, self.home.locks, self.name)

    @property
    def quarantine(self) -> Quarantine:
        """The table of quarantined rows."""
        return Quarantine(self.home.tables, self.home.locks, self.name)

    @property
    def tables(self) -> Mapping[str, Observations | Forecasts | Quarantine]:
        """All tables by name."""
        return {"observations": self.observations, "forecasts": self.forecasts, "quarantine": self.quarantine}

    @property
    def clock(self) -> Clock:
        """The machine's clock, or that of the data set's replay."""
        start = replay_start(self.config)
        return SystemClock() if start is None else ReplayClock(lambda: self.ledger.clocks.position(self.name, start))


def replay_start(config: DatasetConfig) -> datetime | None:
    """Return the UTC time at which a data set's replay begins; ``None`` if its source is not a replay."""
    if config.replay is None:
        return None
    return instant(config.replay.start, config.schedule_tz)
