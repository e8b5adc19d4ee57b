"""The newest history of each data set in memory, cleaned once per data version."""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from api.errors.kinds import UNFORESEEN
from forecast.errors import ConfigError, DataError, ForecastError, StorageError
from forecast.installation import Installation
from forecast.lake.observations import Observations
from forecast.panel import Panel
from pipelines.preparation.clean import clean

_log = logging.getLogger("api")


class Histories:
    """Reads and cleans history; the newest version of each data set is kept. Calls block: use a thread."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._newest: dict[str, tuple[int, Panel]] = {}
        self._refused: dict[str, tuple[int, ForecastError]] = {}
        self._faults: dict[str, ForecastError] = {}
        self._lock = threading.Lock()

    def newest(self, dataset: str) -> tuple[int, Panel] | None:
        """Return the table's latest version and its history; ``None`` before the first ingestion."""
        table = self._table(dataset)
        if not table.exists:
            return None
        version = table.version
        with self._lock:  # one reader at a time: the others find its result in memory
            found = self._newest.get(dataset)
            if found is None or found[0] != version:
                found = self._newest[dataset] = (version, self._read_once(dataset, version))
        return found

    def has_rows(self, dataset: str) -> bool:
        """Whether rows were ever ingested."""
        return self._table(dataset).exists

    def newest_row(self, dataset: str) -> datetime | None:
        """Return the time of the newest row in memory."""
        found = self._newest.get(dataset)
        return found[1].end - self._installation.config.datasets[dataset].step if found else None

    def at(self, dataset: str, version: int) -> Panel:
        """Return the history of a data version."""
        found = self._newest.get(dataset)
        if found and found[0] == version:
            return found[1]
        try:
            return self._read(dataset, version)
        except (ConfigError, DataError) as error:
            raise hidden(error) from error

    def fault(self, dataset: str) -> ForecastError | None:
        """Return why the last :meth:`look` could not read the newest history; answers from memory."""
        return self._faults.get(dataset)

    def look(self) -> None:
        """Read each data set's history if it has a new version, and keep the error if it fails."""
        for dataset in self._installation.config.datasets:
            before = self._faults.get(dataset)
            try:
                self.newest(dataset)
                self._faults.pop(dataset, None)
            except ForecastError as error:
                self._faults[dataset] = error
                if before is None or before.code != error.code:
                    _log.error("%s: %s", dataset, error)
            except Exception:  # noqa: BLE001 - a thread's boundary: one data set must not stop the others
                self._faults[dataset] = UNFORESEEN
                if before is not UNFORESEEN:
                    _log.exception("%s: its history cannot be read", dataset)

    def _read_once(self, dataset: str, version: int) -> Panel:
        # The same version with the same config fails again: it is not read every second.
        refused = self._refused.get(dataset)
        if refused and refused[0] == version:
            raise refused[1].with_traceback(None)  # the traceback would grow with every raise
        try:
            return self._read(dataset, version)
        except (ConfigError, DataError) as error:
            fault = hidden(error)
            self._refused[dataset] = (version, fault)
            raise fault from error

    def _read(self, dataset: str, version: int) -> Panel:
        return clean(self._table(dataset).read(version=version), self._installation.config.datasets[dataset])

    def _table(self, dataset: str) -> Observations:
        try:
            return self._installation.dataset(dataset).observations
        except ConfigError as error:
            raise hidden(error) from error


def hidden(error: ForecastError) -> StorageError:
    """Return an operator's error as a ``StorageError``: clients read its code only, and the log has the rest."""
    return StorageError(error.code, error.fact, error.remedy)
