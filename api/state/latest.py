"""The latest issued forecast of every data set, in memory; a new issuance replaces it without a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType

from api.errors.kinds import UNFORESEEN
from api.state.histories import hidden
from api.state.issued import IssuedForecast, read_issued
from forecast.errors import ConfigError, DataError, ForecastError, UnavailableError
from forecast.installation import Installation

_LATE_SECONDS = 10.0
_log = logging.getLogger("api")


class LatestForecasts:
    """Follows the ledger's issuances. The poller calls ``refresh`` once a second; everything else answers from memory.

    ``prepare`` is called with each new forecast before it is served.
    """

    def __init__(self, installation: Installation, prepare: Callable[[IssuedForecast], None]) -> None:
        self._installation = installation
        self._prepare = prepare
        self._refreshed = 0.0
        # Mappings are replaced, never changed: a reader sees the old forecast or the new one.
        self._held: Mapping[str, IssuedForecast] = MappingProxyType({})
        self._times: Mapping[str, datetime] = MappingProxyType({})
        self._faults: Mapping[str, ForecastError] = MappingProxyType({})

    def of(self, dataset: str) -> IssuedForecast:
        """Return the latest forecast; raises ``forecast.none_yet`` before the first one."""
        found = self._held.get(dataset)
        if found is not None:
            return found
        if dataset in self._faults:
            raise self._faults[dataset].with_traceback(None)  # the traceback would grow with every raise
        raise UnavailableError(
            "forecast.none_yet", f"{dataset} has no issued forecast yet", f'run "forecast forecast {dataset}"'
        )

    def find(self, dataset: str) -> IssuedForecast | None:
        """Return the latest forecast, if there is one."""
        return self._held.get(dataset)

    def now(self, dataset: str) -> datetime:
        """Return the time on the data set's clock, at most a second old."""
        return self._times[dataset]

    def fault(self, dataset: str) -> ForecastError | None:
        """Return why the newest forecast cannot be read; the previous one is still served."""
        return self._faults.get(dataset)

    @property
    def is_late(self) -> bool:
        """Whether the last complete refresh is more than 10 s ago, so that a newer forecast may be missing."""
        return time.monotonic() - self._refreshed > _LATE_SECONDS

    def refresh(self) -> None:
        """Read the clocks, and every issuance newer than the one in memory."""
        held, times = dict(self._held), dict(self._times)
        faults: dict[str, ForecastError] = {}
        for dataset in self._installation.config.datasets:
            try:
                times[dataset] = self._installation.dataset(dataset).clock.now()
                issuance = self._installation.ledger.issuances.latest(dataset)
                if issuance and (dataset not in held or held[dataset].issuance.sequence != issuance.sequence):
                    issued = read_issued(issuance, self._installation)
                    self._prepare(issued)  # the first client must not wait longer than the others
                    held[dataset] = issued
                    _log.info("%s: forecast %s by %s is served", dataset, issuance.forecast_id, issuance.model_version)
            except (ConfigError, DataError) as error:
                faults[dataset] = hidden(error)
            except ForecastError as error:
                faults[dataset] = error
            except Exception:  # noqa: BLE001 - a thread's boundary: one data set must not stop the others
                faults[dataset] = UNFORESEEN
                if self._faults.get(dataset) is not UNFORESEEN:
                    _log.exception("%s: its newest forecast cannot be read", dataset)
            if dataset in faults and getattr(self._faults.get(dataset), "code", None) != faults[dataset].code:
                _log.error("%s: %s", dataset, faults[dataset])
        self._held, self._times, self._faults = (
            MappingProxyType(held),
            MappingProxyType(times),
            MappingProxyType(faults),
        )
        self._refreshed = time.monotonic()
