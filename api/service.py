"""What all routes share: the installation, and what the service remembers of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import anyio
from anyio.to_thread import run_sync

from api.champions import Champions
from api.encoding import json_rest
from api.extension import Extensions
from api.history import Histories
from api.issued import IssuedForecast, read_issued
from api.latest import LatestForecasts
from api.negotiation import JSON
from api.recent import Recent
from api.schemas import ForecastQuery
from api.selection import select
from forecast.errors import ForecastError, NotFoundError
from forecast.installation import Installation
from pipelines.maintain import check_tables

_log = logging.getLogger("api")
_PAST_BYTES = 32 * 2**20
_ANSWER_BYTES = 64 * 2**20


class Service:
    """One serving process's state; everything in it can be lost and is read again."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.histories = Histories(installation)
        self.champions = Champions(installation)
        self.latest = LatestForecasts(installation, self._encode_whole, self._look)
        self.extensions = Extensions(installation, self.histories)
        self.answers: Recent[tuple[object, ...], bytes] = Recent(_ANSWER_BYTES)
        # Two at a time: threads that write long answers hold the interpreter, and everybody else would wait for them.
        self.long_answers = anyio.CapacityLimiter(2)
        self._damages: dict[str, tuple[str, ...]] = {}
        self._past: Recent[str, IssuedForecast] = Recent(_PAST_BYTES)

    def faults_of_tables(self, dataset: str) -> tuple[str, ...]:
        """Return codes of what was found damaged when the service started; none before that is known."""
        return self._damages.get(dataset, ())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the ledger while the body runs."""
        await run_sync(self.latest.start)
        await run_sync(self.champions.look)  # or the first who asks for a forecast would wait for the network
        # Beside serving: a large lake takes a while, and what is read is verified anyway.
        threading.Thread(target=self._check_tables, name="check-tables", daemon=True).start()
        try:
            yield
        finally:
            await run_sync(self.latest.stop)
            await run_sync(self.champions.close)

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
        for dataset in self.installation.jobs.datasets:
            try:
                damages = check_tables(dataset, self.installation)
            except ForecastError as error:
                _log.error("%s: %s [%s]", dataset, error, error.code)  # one line, not a traceback
                self._damages[dataset] = (error.code,)
                continue
            for damage in damages:
                _log.error("%s: %s [%s]", dataset, damage.told, damage.code)
            self._damages[dataset] = tuple(dict.fromkeys(damage.code for damage in damages))

    def _encode_whole(self, issued: IssuedForecast) -> None:
        part = select(ForecastQuery(), issued)
        rest = json_rest(issued, part, self.installation.jobs.datasets[issued.issuance.dataset])
        self.answers.keep((issued.issuance.forecast_id, part, JSON), rest, len(rest))

    def _read_past(self, latest: IssuedForecast, as_of: datetime | None, model: str | None) -> IssuedForecast:
        dataset = latest.issuance.dataset
        issuance = self.installation.ledger.issuance(dataset, as_of=as_of, model=model)
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
