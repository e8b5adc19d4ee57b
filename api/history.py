"""The newest history of each data set, cleaned once per data version."""

from __future__ import annotations

import threading

from forecast.installation import Installation
from forecast.panel import Panel
from pipelines.clean import clean


class Histories:
    """Reads and repairs history; the newest version of each data set is kept. Calls block: use a thread."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._newest: dict[str, tuple[int, Panel]] = {}
        self._lock = threading.Lock()

    def newest(self, dataset: str) -> tuple[int, Panel] | None:
        """Return the table's latest version and its history; ``None`` if nothing was ever ingested."""
        table = self._installation.observations(dataset)
        if not table.exists:
            return None
        version = table.version
        with self._lock:  # one reader at a time: the others find its result
            found = self._newest.get(dataset)
            if found is None or found[0] != version:
                found = self._newest[dataset] = (version, self._read(dataset, version))
        return found

    def at(self, dataset: str, version: int) -> Panel:
        """Return the history as a data version has it."""
        found = self._newest.get(dataset)
        return found[1] if found and found[0] == version else self._read(dataset, version)

    def _read(self, dataset: str, version: int) -> Panel:
        rows = self._installation.observations(dataset).read(version=version)
        return clean(rows, self._installation.jobs.datasets[dataset])
