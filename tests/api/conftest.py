"""A server over a real socket, on a home with issued forecasts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.server import listen, server
from forecast.clock import SystemClock
from forecast.ledger.keys import Key, Scope, mint
from forecast.runtime.calibration import Calibration
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    import polars as pl

    from api.limits import Exposure, Limits
    from forecast.installation import Installation
    from forecast.ledger.issuance import Issuance
    from forecast.runtime.manifest import Manifest

ROOT = Path(__file__).parents[2]
BAND = Calibration(
    group=24, quantile_offsets=(((-1.0, 0.0, 1.0), (-0.5, 0.0, 0.5)),), mean_offsets=((0.1, 0.2),)
)  # in standard deviations: the model alone says one value for all levels


@pytest.fixture
def crowned(crown: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """Make a champion whose forecast moves with the calendar and has a band."""

    def make(installation: Installation, version: str = "repeat_last-1", **changes: Any) -> Manifest:
        return crown(installation, version, calibration=BAND, weight=0.5, **changes)

    return make


@pytest.fixture
def home(
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    crowned: Callable[..., Manifest],
) -> Installation:
    installation = make_home(tiny_rows())
    ingest(installation.dataset("tiny"))
    crowned(installation)
    return installation


@pytest.fixture
def serve() -> Iterator[Callable[..., httpx.Client]]:
    """Serve a home on a free port, and return a client of it."""
    running: list[tuple[Any, threading.Thread, httpx.Client]] = []

    def start(
        installation: Installation, limits: Limits | None = None, exposure: Exposure | None = None
    ) -> httpx.Client:
        listener = listen("127.0.0.1", 0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        one = server(installation, limits, exposure)
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
        thread.start()
        client = httpx.Client(base_url=address, timeout=30, trust_env=False)
        running.append((one, thread, client))
        while (
            client.get("/healthz").status_code != 200
        ):  # the socket listens already: the first answer waits for the start
            assert thread.is_alive()
        return client

    yield start
    for one, thread, client in running:
        client.close()
        one.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture
def make_key() -> Callable[..., str]:
    """Make a key in a home's ledger, and return its text."""

    def make(installation: Installation, scope: Scope, *datasets: str, expires: timedelta | None = None) -> str:
        now = SystemClock().now()
        key_id, text, digest = mint()
        ends = now + expires if expires is not None else None
        installation.ledger.keys.add(Key(key_id, "a test", digest, scope, datasets, now, ends))
        return text

    return make


@dataclass(frozen=True)
class Served:
    """A home, its issued forecast, and a client of its service."""

    home: Installation
    issuance: Issuance
    client: httpx.Client

    def get(self, **query: Any) -> httpx.Response:
        return self.client.get("/v1/datasets/tiny/forecast", params=query)


@pytest.fixture
def served(home: Installation, serve: Callable[[Installation], httpx.Client]) -> Served:
    issuance, _ = issue(home.dataset("tiny"))
    return Served(home, issuance, serve(home))


@pytest.fixture
def working(home: Installation) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start ``forecast work`` on the home, as a user does."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "forecast", "work", "--home", str(home.home.path)]
        with (home.home.logs / "workers.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0
