"""Models in memory: a champion is loaded when it is promoted, so that no request waits for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from anyio.to_thread import run_sync

from api.errors.suggestions import suggest
from api.schemas.models import CHAMPION, PREVIOUS
from api.state.batching import LARGEST_RUN, Batcher
from api.state.histories import hidden
from api.state.lru import Recent
from forecast.errors import ForecastError, NotFoundError, UnavailableError
from forecast.installation import Installation
from forecast.ledger.champions import Champion, distinct
from forecast.panel import Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import Prediction, ServedModel
from forecast.runtime.sandbox import load_guarded, try_together
from pipelines.forecasting.inputs import fits
from pipelines.forecasting.recursion import rounds
from pipelines.preparation.calendar_cache import CalendarMemory

THREADS = 1
"""Threads of ONNX Runtime within one run; docs/rest.md has the measurement."""
_OTHERS = 4
_REST_SECONDS = 30
_log = logging.getLogger("api")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory."""

    champion: Champion
    batcher: Batcher
    calendar: CalendarMemory

    @property
    def model(self) -> ServedModel:
        """The model itself."""
        return self.batcher.model


@dataclass(frozen=True, slots=True)
class _Refused:
    """A champion that failed to load; it is not read again before ``until``."""

    version: str
    error: ForecastError
    until: float


class LoadedChampions:
    """Follows the ledger's champions. Other versions are loaded on request, and the last four of them are kept."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._calendars = {name: CalendarMemory() for name in installation.config.datasets}
        # Mappings are replaced, never changed: a reader sees the old champion or the new one.
        self._held: Mapping[str, Loaded] = MappingProxyType({})
        self._refused: dict[str, _Refused] = {}
        self._others: Recent[tuple[str, str], Loaded] = Recent(_OTHERS)

    def close(self) -> None:
        """Wait for the present run, and cancel the others."""
        self._executor.shutdown(cancel_futures=True)

    def begin(self) -> None:
        """Load every champion at start-up."""
        with suppress(ForecastError):  # look() logs it
            names = self._installation.config.datasets
            found = [one for name in names if (one := self._installation.ledger.champions.current(name)) is not None]
            try_together((self._installation.home.models / one.folder, one.digest) for one in found if one.digest)
        self.look()

    def look(self) -> None:
        """Load new champions. If one fails to load, the previous one is served."""
        for dataset in self._installation.config.datasets:
            try:
                self._refresh(dataset)
            except ForecastError:
                pass  # _refresh() has logged it, and requests for a forecast receive it
            except Exception:  # noqa: BLE001 - a thread's boundary: one data set must not stop the others
                _log.exception("%s: its champion cannot be loaded", dataset)

    def names(self) -> frozenset[str]:
        """Return the names of all trained series and channels, which error messages may repeat."""
        manifests = [loaded.model.manifest for loaded in self._held.values()]
        configs = self._installation.config.datasets.values()
        return frozenset().union(*(one.scaler.targets for one in manifests), *(one.channels for one in configs))

    def manifest(self, dataset: str) -> Manifest | None:
        """Return the manifest of the loaded champion, if there is one."""
        held = self._held.get(dataset)
        return None if held is None else held.model.manifest

    async def of(self, dataset: str, model: str = CHAMPION) -> Loaded:
        """Return a model by its version, or as ``champion`` or ``previous``.

        Raises ``forecast.no_champion``, ``forecast.champion_outdated``, ``model.unknown`` and what loading raises.
        """
        if model == CHAMPION:
            held = self._held.get(dataset)
            return held if held is not None else await run_sync(self._refresh, dataset)
        return await run_sync(self._other, dataset, model)

    async def forecast(self, loaded: Loaded, panel: Panel, horizon: int) -> Prediction:
        """Forecast a panel as ``pipelines.forecasting.recursion.extend`` does, batched with other requests."""
        config = self._installation.config.datasets[loaded.champion.dataset]
        batcher = loaded.batcher
        if not set(panel.series) <= loaded.model.manifest.scaler.targets.keys():
            batcher = Batcher(loaded.model.fitted_to(panel), self._executor)
        steps = rounds(batcher.model, panel, config, horizon, loaded.calendar)
        request = next(steps)
        while True:
            made = await batcher.forecast(request)
            try:
                request = steps.send(made)
            except StopIteration as done:
                whole: Prediction = done.value
                return whole

    async def forecast_all(self, loaded: Loaded, panels: Sequence[Panel], horizon: int) -> list[Prediction]:
        """Forecast several panels, 16 at a time, so that one request never fills the queue."""
        made: list[Prediction] = []
        for begin in range(0, len(panels), LARGEST_RUN):
            some = panels[begin : begin + LARGEST_RUN]
            made += await asyncio.gather(*[self.forecast(loaded, panel, horizon) for panel in some])
        return made

    def _refresh(self, dataset: str) -> Loaded:
        champion = self._installation.ledger.champions.current(dataset)
        if champion is None:
            raise UnavailableError(
                "forecast.no_champion", f"{dataset} has no champion", f'run "forecast train {dataset}"'
            )
        held = self._held.get(dataset)
        if held is not None and held.champion.model_version == champion.model_version:
            return held
        refused = self._refused.get(dataset)
        if refused and refused.version == champion.model_version and time.monotonic() < refused.until:
            if held is not None:
                return held
            raise refused.error.with_traceback(None)  # the traceback would grow with every raise
        try:
            loaded = self._loaded(champion)
        except ForecastError as error:
            self._refused[dataset] = _Refused(champion.model_version, error, time.monotonic() + _REST_SECONDS)
            _log.error("%s: %s is not served on demand: %s", dataset, champion.model_version, error)
            if held is not None:
                return held
            raise
        self._held = MappingProxyType({**self._held, dataset: loaded})
        return loaded

    def _other(self, dataset: str, model: str) -> Loaded:
        newest = {one.model_version: one for one in distinct(self._installation.ledger.champions.history(dataset))}
        versions = list(newest)
        if model == PREVIOUS and len(versions) > 1:
            model = versions[1]
        if model not in newest:
            raise NotFoundError(
                "model.unknown", "no champion has or had this version", suggest(model, [CHAMPION, *versions])
            )
        held = self._held.get(dataset)
        if held is not None and held.champion.model_version == model:
            return held
        found = self._others.get((dataset, model))
        if found is None:
            found = self._loaded(newest[model])
            self._others.keep((dataset, model), found, 1)
        return found

    def _loaded(self, champion: Champion) -> Loaded:
        try:
            model = load_guarded(self._installation.home.models / champion.folder, champion.digest, THREADS)
        except NotFoundError as error:
            raise hidden(error) from error  # its sentence names a folder
        if not fits(model.manifest, self._installation.config.datasets[champion.dataset]):
            raise UnavailableError(
                "forecast.champion_outdated",
                f"{champion.model_version} was trained for channels or a frequency that the config file no longer has",
                f'run "forecast train {champion.dataset}"',
            )
        return Loaded(champion, Batcher(model, self._executor), self._calendars[champion.dataset])
