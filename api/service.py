"""The state of one serving process: the installation and everything kept in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
from anyio.to_thread import run_sync

from api.asgi.admission import Admission
from api.auth.keyring import Keyring
from api.auth.sessions import Sessions
from api.errors.kinds import BUSY
from api.forecasts.encoding import encode, entity_tag
from api.forecasts.selection import select
from api.limits import Exposure, Limits
from api.observability.metrics import Gauge, Metrics
from api.observability.operations import Operations
from api.observability.tracing import Tracer
from api.requests.negotiation import JSON
from api.schemas.forecasts import ForecastQuery
from api.state.answers import ANSWER_BYTES, Answers, EncodedForecast
from api.state.champions import LoadedChampions
from api.state.event_feed import Feed
from api.state.histories import Histories
from api.state.issued import IssuedForecast, age_of, read_issued
from api.state.latest import LatestForecasts
from api.state.long_horizon import MOST_WAITING, LongHorizons
from api.state.lru import Recent
from api.state.poller import Poller
from forecast.errors import ForecastError, NotFoundError
from forecast.installation import Installation
from pipelines.maintenance.maintain import check_tables

_log = logging.getLogger("api")
_PAST_BYTES = 32 * 2**20


class Service:
    """One process's state. All of it is a copy of the ledger and the lake: a restart loses nothing."""

    def __init__(
        self, installation: Installation, limits: Limits | None = None, exposure: Exposure | None = None
    ) -> None:
        self.installation = installation
        self.limits = limits or Limits.from_environment()
        self.exposure = exposure or Exposure()
        self.keyring = Keyring(installation.ledger, beyond_loopback=self.exposure.beyond_loopback)
        self.sessions = Sessions.of(self.keyring, self.limits.session_hours)
        self.admission = Admission(self.limits)
        self.operations = Operations(installation)
        self.metrics = Metrics()
        self.metrics.add(self.operations.gauges)
        self.tracer = Tracer.if_configured()
        self.histories = Histories(installation)
        self.champions = LoadedChampions(installation)
        self.latest = LatestForecasts(installation, self._encode_whole)
        self.metrics.add(self.gauges)
        self.long_horizons = LongHorizons(installation, self.histories)
        self.feed = Feed(installation.ledger)
        self.answers: Answers = Recent(ANSWER_BYTES)
        # Two at a time: threads that encode long answers hold the interpreter, and all other requests would wait.
        self.long_answers = anyio.CapacityLimiter(2)
        self._poller = Poller()
        self._poller.subscribe(self.keyring.refresh, 1)  # first: a revoked key must be refused soon
        self._poller.subscribe(self.feed.look, 0.5, at_start=False)
        self._poller.subscribe(self.latest.refresh, 1)
        self._poller.subscribe(self.champions.look, 1, at_start=False)
        self._poller.subscribe(self.histories.look, 1, at_start=False)
        self._poller.subscribe(self.operations.refresh, 5)
        self._damages: dict[str, tuple[str, ...]] = {}
        self._past: Recent[str, IssuedForecast] = Recent(_PAST_BYTES)

    def faults_of_tables(self, dataset: str) -> tuple[str, ...]:
        """Return codes of damages found by the check at start-up; none until it has finished."""
        return self._damages.get(dataset, ())

    def long_turn(self) -> anyio.CapacityLimiter:
        """Return the limiter of long answers; raises ``service.busy`` if too many requests wait for it."""
        if self.long_answers.statistics().tasks_waiting >= MOST_WAITING:
            raise BUSY.with_traceback(None)  # the traceback would grow with every raise
        return self.long_answers

    def reasons(self) -> list[str]:
        """Return codes of faults of the installation as a whole."""
        own = {"keys.missing": self.keyring.lacks_keys, "keys.not_followed": self.keyring.is_late}
        return [*(code for code, holds in own.items() if holds), *self.operations.reasons()]

    def gauges(self) -> Iterator[Gauge]:
        """Return the age of each data set's forecast and newest row; answers from memory."""
        for dataset, config in self.installation.config.datasets.items():
            label = (("dataset", dataset),)
            issued, newest = self.latest.find(dataset), self.histories.newest_row(dataset)
            if issued is not None:
                age, stale = age_of(issued, config, self.latest.now(dataset))
                yield Gauge("forecast_age_seconds", "Time since the served forecast was issued.", age, label)
                yield Gauge("forecast_stale", "Whether the served forecast is older than stale_after.", stale, label)
            if newest is not None:
                behind = (self.latest.now(dataset) - newest).total_seconds()
                yield Gauge("forecast_data_age_seconds", "Time since the newest row.", behind, label)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the ledger while the body runs."""
        await run_sync(self._poller.start)
        try:
            await run_sync(self.champions.begin)  # otherwise the first forecast on demand would wait for the network
            # In the background: a large lake takes a while, and every read is verified anyway.
            threading.Thread(target=self._check_tables, name="check-tables", daemon=True).start()
            yield
        finally:
            await run_sync(self._poller.stop)
            await run_sync(self.champions.close)
            if self.tracer is not None:
                await run_sync(self.tracer.close)

    async def known_at(self, dataset: str, as_of: datetime | None, model: str | None = None) -> IssuedForecast:
        """Return the latest forecast, or the latest at ``as_of``, or the latest of a model version."""
        latest = self.latest.of(dataset)
        if as_of is None and model in {None, latest.issuance.model_version}:
            return latest
        return await run_sync(self._read_past, latest, as_of, model)

    def _check_tables(self) -> None:
        for dataset in self.installation.config.datasets:
            try:
                damages = check_tables(self.installation.dataset(dataset))
            except ForecastError as error:
                _log.error("%s: %s [%s]", dataset, error, error.code)  # one line, not a traceback
                self._damages[dataset] = (error.code,)
                continue
            for damage in damages:
                _log.error("%s: %s [%s]", dataset, damage.message, damage.code)
            self._damages[dataset] = tuple(dict.fromkeys(damage.code for damage in damages))

    def _encode_whole(self, issued: IssuedForecast) -> None:
        part = select(ForecastQuery(), issued)
        config = self.installation.config.datasets[issued.issuance.dataset]
        tags = (entity_tag(issued, part, JSON, stale=stale) for stale in (False, True))
        encoded = EncodedForecast(issued, config, encode(issued, part, JSON, config), *tags)
        self.answers.keep((issued.issuance.forecast_id, part, JSON), encoded, len(encoded.body))

    def _read_past(self, latest: IssuedForecast, as_of: datetime | None, model: str | None) -> IssuedForecast:
        dataset = latest.issuance.dataset
        issuance = self.installation.ledger.issuances.latest(dataset, as_of=as_of, model=model)
        if issuance is None and model is not None:
            raise NotFoundError(
                "forecast.none_by_model",
                "no forecast was issued by then with this model version",
                "see /v1/models for versions",
            )
        if issuance is None:
            raise NotFoundError(
                "forecast.none_then", f"no forecast of {dataset} had been issued by then", "give a later as_of"
            )
        if issuance.forecast_id == latest.issuance.forecast_id:
            return latest
        found = self._past.get(issuance.forecast_id)
        if found is None:
            found = read_issued(issuance, self.installation)
            self._past.keep(issuance.forecast_id, found, found.weight)
        return found
