"""What all routes share: the installation, and what the service remembers of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
from anyio.to_thread import run_sync

from api.asgi.admission import Admission
from api.asgi.shortcut import ReadyAnswers
from api.auth.keyring import Keyring
from api.auth.sessions import Sessions
from api.errors.problems import BUSY
from api.forecasts.encoding import json_rest
from api.forecasts.selection import select
from api.limits import Exposure, Limits
from api.observability.metrics import Metrics
from api.observability.operations import Operations
from api.observability.tracing import Tracer
from api.requests.negotiation import JSON
from api.schemas.forecasts import ForecastQuery
from api.state.champions import Champions
from api.state.event_feed import Feed
from api.state.histories import Histories
from api.state.issued import IssuedForecast, read_issued
from api.state.latest import LatestForecasts
from api.state.long_horizon import MOST_WAITING, LongHorizons
from api.state.lru import Recent
from api.state.poller import Follower
from forecast.errors import ForecastError, NotFoundError
from forecast.installation import Installation
from pipelines.maintenance.maintain import check_tables

_log = logging.getLogger("api")
_PAST_BYTES = 32 * 2**20
_ANSWER_BYTES = 64 * 2**20


class Service:
    """One serving process's state; everything in it can be lost and is read again."""

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
        # Not with the forecasts: reading a large one must not delay that a revoked key is refused.
        self._follower = Follower(((self.keyring.refresh, 1), (self.operations.refresh, 5)))
        self.histories = Histories(installation)
        self.champions = Champions(installation)
        self.latest = LatestForecasts(installation, self._encode_whole, self._look)
        self.ready = ReadyAnswers(self.latest, self.metrics)
        self.extensions = LongHorizons(installation, self.histories)
        self.feed = Feed(installation.ledger)
        self.answers: Recent[tuple[object, ...], bytes] = Recent(_ANSWER_BYTES)
        # Two at a time: threads that write long answers hold the interpreter, and everybody else would wait for them.
        self.long_answers = anyio.CapacityLimiter(2)
        self._damages: dict[str, tuple[str, ...]] = {}
        self._past: Recent[str, IssuedForecast] = Recent(_PAST_BYTES)

    def faults_of_tables(self, dataset: str) -> tuple[str, ...]:
        """Return codes of what was found damaged when the service started; none before that is known."""
        return self._damages.get(dataset, ())

    def long_turn(self) -> anyio.CapacityLimiter:
        """Return whose turn a long answer waits for; raises ``service.busy`` if too many wait already."""
        if self.long_answers.statistics().tasks_waiting >= MOST_WAITING:
            raise BUSY.with_traceback(None)  # or it would grow with every raise
        return self.long_answers

    def reasons(self) -> list[str]:
        """Return codes of what is wrong with the installation as a whole."""
        own = {"keys.missing": self.keyring.lacks_keys, "keys.not_followed": self.keyring.is_late}
        return [*(code for code, holds in own.items() if holds), *self.operations.reasons()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the ledger while the body runs."""
        await run_sync(self._follower.start)
        await run_sync(self.latest.start)
        await run_sync(self.champions.begin)  # or the first who asks for a forecast would wait for the network
        # Beside serving: a large lake takes a while, and what is read is verified anyway.
        threading.Thread(target=self._check_tables, name="check-tables", daemon=True).start()
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self.feed.follow)
                yield
                beside.cancel_scope.cancel()
        finally:
            await run_sync(self.latest.stop)
            await run_sync(self.champions.close)
            await run_sync(self._follower.stop)
            if self.tracer is not None:
                await run_sync(self.tracer.close)

    async def known_at(self, dataset: str, as_of: datetime | None, model: str | None = None) -> IssuedForecast:
        """Return the latest forecast, or the one that was the latest at ``as_of``, or of a model of that version."""
        latest = self.latest.of(dataset)
        if as_of is None and model in {None, latest.issuance.model_version}:
            return latest
        return await run_sync(self._read_past, latest, as_of, model)

    def _look(self) -> None:
        self.champions.look()
        self.histories.look()

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
        rest = json_rest(issued, part, self.installation.config.datasets[issued.issuance.dataset])
        self.answers.keep((issued.issuance.forecast_id, part, JSON), rest, len(rest))

    def _read_past(self, latest: IssuedForecast, as_of: datetime | None, model: str | None) -> IssuedForecast:
        dataset = latest.issuance.dataset
        issuance = self.installation.ledger.issuances.latest(dataset, as_of=as_of, model=model)
        if issuance is None and model is not None:
            raise NotFoundError(
                "forecast.none_by_model",
                "no forecast was issued by then with a model of that version",
                "see /v1/models for versions",
            )
        if issuance is None:
            raise NotFoundError(
                "forecast.none_then", f"no forecast of {dataset} had been issued by then", "ask for a later as_of"
            )
        if issuance.forecast_id == latest.issuance.forecast_id:
            return latest
        found = self._past.get(issuance.forecast_id)
        if found is None:
            found = read_issued(issuance, self.installation)
            self._past.keep(issuance.forecast_id, found, found.weight)
        return found
