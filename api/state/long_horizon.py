"""Steps beyond the trained horizon, computed on request with the model and the data version of an issuance."""

from __future__ import annotations

import logging
from dataclasses import replace

import anyio
import numpy as np
from anyio.to_thread import run_sync

from api.errors.kinds import BUSY
from api.state.histories import Histories, hidden
from api.state.issued import IssuedForecast
from api.state.lru import Recent
from forecast.errors import ConfigError, DataError, NotFoundError, StorageError, UnavailableError
from forecast.installation import Installation
from forecast.runtime.sandbox import load_guarded
from forecast.vocabulary import MAX_HORIZON
from pipelines.forecasting.correct import corrected
from pipelines.forecasting.inputs import fits
from pipelines.forecasting.recursion import extend

MOST_WAITING = 64
"""Limit of requests that wait for long work: below the limit of a route, so that its other requests go on."""
_CAPACITY = 64 * 2**20
_log = logging.getLogger("api")


class LongHorizons:
    """Prolongs issued forecasts. The longest of each is kept: a shorter one is its prefix."""

    def __init__(self, installation: Installation, histories: Histories) -> None:
        self._installation = installation
        self._histories = histories
        self._recent: Recent[str, IssuedForecast] = Recent(_CAPACITY)
        # One at a time: many long horizons must not occupy the threads of other requests.
        self._turn = anyio.CapacityLimiter(1)

    async def reach(self, issued: IssuedForecast, horizon: int) -> IssuedForecast:
        """Return a forecast of at least ``horizon`` steps whose first ones are the issued ones."""
        if horizon <= issued.horizon:
            return issued
        known = self._known(issued, horizon)
        if known is not None:
            return known
        if self._turn.statistics().tasks_waiting >= MOST_WAITING:
            raise BUSY.with_traceback(None)  # the traceback would grow with every raise
        return await run_sync(self._prolong, issued, horizon, limiter=self._turn)

    def _known(self, issued: IssuedForecast, horizon: int) -> IssuedForecast | None:
        found = self._recent.get(issued.issuance.forecast_id)
        return found if found and found.horizon >= horizon else None

    def _prolong(self, issued: IssuedForecast, horizon: int) -> IssuedForecast:
        known = self._known(issued, horizon)  # the previous request may have computed it
        if known:
            return known
        issuance, trained = issued.issuance, issued.horizon
        config = self._installation.config.datasets[issuance.dataset]
        try:
            panel = self._histories.at(issuance.dataset, issuance.data_version)
            # The ledger's digest: an attacker who can write the model's folder cannot change the ledger.
            digest = self._installation.ledger.champions.digest(issuance.dataset, issuance.model_folder)
            model = load_guarded(self._installation.home.models / issuance.model_folder, digest)
        except (NotFoundError, StorageError) as error:
            _log.error("forecast %s cannot be prolonged: %s", issuance.forecast_id, error)
            raise UnavailableError(
                "forecast.not_extendable",
                "the model or the data version of this forecast is no longer readable",
                f"request at most {trained} steps",
            ) from error
        if not fits(model.manifest, config):
            raise _not_reproducible()
        whole = min(-(-horizon // trained) * trained, MAX_HORIZON)  # the model always makes whole rounds
        try:
            panel = panel.only(issued.series)
            correction = self._installation.ledger.corrections.get(issuance.correction)
            prediction = corrected(extend(model, panel, config, whole), correction, model.manifest, panel.series)
        except (ConfigError, DataError) as error:
            raise hidden(error) from error
        rows = [panel.series.index(name) for name in issued.series]
        columns = [model.manifest.targets.index(name) for name in issued.channels]
        mean = prediction.mean.transpose(0, 2, 1)[rows][:, columns]
        quantiles = prediction.quantiles.transpose(0, 2, 1, 3)[rows][:, columns]
        if not np.allclose(mean[:, :, :trained], issued.mean, rtol=1e-3, atol=1e-6):
            raise _not_reproducible()
        prolonged = replace(
            issued,
            mean=np.concatenate([issued.mean, mean[:, :, trained:]], axis=2),
            quantiles=np.concatenate([issued.quantiles, quantiles[:, :, trained:]], axis=2),
        )
        self._recent.keep(issuance.forecast_id, prolonged, prolonged.weight)
        return prolonged


def _not_reproducible() -> UnavailableError:
    return UnavailableError(
        "forecast.not_reproducible",
        "recomputing the issued forecast gives a different result, so it cannot be prolonged",
        "issue a new forecast: the config file has changed since this one",
    )
