"""On-demand forecasts over a real socket, beside a bare route that only parses the same body.

An iTransformer of seven channels (look-back and horizon 96) is trained and exported once; server and client are
processes of their own. Processor time is told beside the clock's: what else the machine does changes it less.

``python -m benchmarks.serving.on_demand [folder]`` prints the figures of docs/rest.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil

CHANNELS = tuple(f"channel_{number}" for number in range(7))
ROWS, STEPS = 2_500, 96
START = datetime(2024, 1, 1, tzinfo=UTC)
JOB = """
[datasets.bench]
frequency = "1h"
series = ""
horizons = [96]
lookback = 96
season = 24
models = ["itransformer"]
source = { kind = "csv", path = "rows.csv" }
splits = { validation = "10d", calibration = "10d", holdout = "10d" }
training = { max_epochs = 1, stride = 7, baselines = [] }
[datasets.bench.channels]
"""


def make_home(folder: Path) -> None:
    """Write rows, train and export a network, and make it champion."""
    import polars as pl

    from forecast.installation import Installation
    from forecast.ledger import Champion
    from forecast.runtime import manifest_digest
    from pipelines.clean import clean
    from pipelines.exporting import about, export
    from pipelines.fitting import fit
    from pipelines.ingest import ingest
    from pipelines.predict import issue
    from pipelines.series import fit_scaler
    from pipelines.slices import Slices
    from pipelines.windows import cut

    folder.mkdir(parents=True)
    lines = "".join(f'{name} = {{ role = "target" }}\n' for name in CHANNELS)
    (folder / "forecast.toml").write_text(JOB + lines, encoding="utf-8")
    random, hours = np.random.default_rng(0), np.arange(ROWS)
    values = {name: 50 + 10 * np.sin((hours + 3 * at) / 12 * np.pi) + random.normal(0, 2, ROWS)
              for at, name in enumerate(CHANNELS)}  # fmt: skip
    times = [(START + timedelta(hours=int(hour))).strftime("%Y-%m-%d %H:%M:%S") for hour in hours]
    pl.DataFrame({"time": times, **values}).write_csv(folder / "rows.csv")
    installation = Installation.open(folder)
    job = installation.jobs.datasets["bench"]
    ingest("bench", installation)
    panel = clean(installation.observations("bench").read(), job)
    slices = Slices.of(panel, job)
    scaler = fit_scaler(panel, job, slices.fit)
    fitted = fit(job, panel, slices, scaler, "itransformer")
    told = about(
        job, scaler, dataset="bench", model_name="itransformer", model_version="itransformer-1", trained_at=START,
        data_version=0, data_digest="", fitted_until=panel.time(slices.calibration),
    )  # fmt: skip
    place = installation.home.models / "itransformer-1"
    export(fitted.model, place, told, cut(panel, job, slices.validation, slices.calibration))
    champion = Champion("bench", "itransformer", place.name, place.name, manifest_digest(place), START, "made here")
    installation.ledger.promote(champion)
    issue("bench", installation)


def serve(folder: Path) -> None:
    """Serve the home and, beside it, the bare route; print the port."""
    from fastapi import FastAPI

    from api import server as serving
    from api.on_demand import OnDemandRequest
    from forecast.installation import Installation

    listener = serving.listen("127.0.0.1", 0)
    one = serving.server(Installation.open(folder))
    bare = FastAPI()

    async def parse(body: OnDemandRequest) -> dict[str, int]:
        return {"series": len(body.history.series) if body.history else 0}

    parse.__annotations__["body"] = OnDemandRequest  # the framework looks names up in the module alone
    bare.post("/")(parse)
    one.config.app.mount("/bare", bare)  # type: ignore[union-attr]
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    one.run(sockets=[listener])


class Connection:
    """One client that keeps its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: bytes) -> bytes:
        """Send a body and read the answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        self._writer.write(head.encode() + b"\r\n\r\n" + body)
        told = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in told.split(b"\r\n", 1)[0]:
            raise RuntimeError(told.decode())
        length = int(told.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        return await self._reader.readexactly(length)


async def measure(port: int, bodies: list[bytes], server: psutil.Process) -> dict[str, Any]:
    """Time one client alone, then 32 at once, on each route."""
    result: dict[str, Any] = {}
    for name, path in (("bare", "/bare/"), ("forecast", "/v1/forecasts")):
        # Anew for each phase: the server closes connections that are idle for seconds.
        lone = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for _ in range(50):
            await lone.post(path, bodies[0])
        alone, spent = [], sum(server.cpu_times()[:2])
        for turn in range(300):
            begin = time.perf_counter()
            await lone.post(path, bodies[turn % len(bodies)])
            alone.append(1000 * (time.perf_counter() - begin))
        spent_alone = (sum(server.cpu_times()[:2]) - spent) / 300
        connections = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(32)]
        seconds, waits, spent = 6.0, list[float](), sum(server.cpu_times()[:2])
        end = time.perf_counter() + seconds

        async def go_on(own: Connection, first: int, path: str = path, end: float = end) -> int:
            count = 0
            while time.perf_counter() < end:
                begin = time.perf_counter()
                await own.post(path, bodies[(first + count) % len(bodies)])
                waits.append(1000 * (time.perf_counter() - begin))  # noqa: B023 - of this turn
                count += 1
            return count

        done = sum(await asyncio.gather(*[go_on(own, place) for place, own in enumerate(connections)]))
        result[name] = {
            "p50_ms": round(statistics.median(alone), 2),
            "p95_ms": round(sorted(alone)[int(0.95 * len(alone))], 2),
            "server_cpu_ms": round(1000 * spent_alone, 2),
            "per_second_at_32": round(done / seconds),
            "server_cpu_ms_at_32": round(1000 * (sum(server.cpu_times()[:2]) - spent) / done, 2),
            "p99_ms_at_32": round(sorted(waits)[int(0.99 * len(waits))], 1),
        }
    return result


def bodies(count: int = 64) -> list[bytes]:
    """Return requests that differ in their values and times."""
    random = np.random.default_rng(1)
    made = []
    for number in range(count):
        values = {name: random.normal(50, 10, STEPS).round(3).tolist() for name in CHANNELS}
        history = {"start": (START + timedelta(hours=number)).isoformat(), "series": {"bench": values}}
        made.append(json.dumps({"dataset": "bench", "history": history}).encode())
    return made


def inside(folder: Path) -> dict[str, float]:
    """Time the parts of one request without HTTP, in milliseconds."""
    from api.champions import Champions
    from api.encoding import json_rest
    from api.issued import read_issued
    from api.on_demand import OnDemandRequest
    from api.placed import parse
    from api.schemas import ForecastQuery
    from api.selection import select
    from forecast.installation import Installation
    from forecast.runtime import session
    from pipelines.on_demand import from_columns
    from pipelines.predict import rounds

    installation = Installation.open(folder)
    champions, job = Champions(installation), installation.jobs.datasets["bench"]
    champions.look()
    loaded = asyncio.run(champions.of("bench"))
    body = bodies(1)[0]

    def timed(call: Any, turns: int = 200) -> float:
        told = []
        for _ in range(turns):
            begin = time.perf_counter()
            call()
            told.append(1000 * (time.perf_counter() - begin))
        return round(statistics.median(told), 3)

    sent = parse(body, OnDemandRequest)
    series = sent.history.series if sent.history else {}
    panel = from_columns(START, series, {}, job, ("bench",))
    first = next(rounds(loaded.model, panel, job, STEPS, loaded.calendar))
    issued = read_issued(installation.ledger.issuances("bench", 1)[0], installation)
    part = select(ForecastQuery(), issued)
    feeds = loaded.model.feeds(first.targets, first.past, first.future, first.series)
    result = {
        "parse": timed(lambda: parse(body, OnDemandRequest)),
        "panel": timed(lambda: from_columns(START, series, {}, job, ("bench",))),
        "window": timed(lambda: next(rounds(loaded.model, panel, job, STEPS, loaded.calendar))),
        "network and bands": timed(lambda: first.run(loaded.model)),
        "encode": timed(lambda: json_rest(issued, part, job)),
    }
    for threads in (1, 2):
        network = session(installation.home.models / "itransformer-1" / "model.onnx", threads)
        for windows in (1, 16, 64):
            many = {name: np.repeat(values, windows, axis=0) for name, values in feeds.items()}
            begin, spent = time.perf_counter(), time.process_time()
            for _ in range(40):
                network.run(None, many)
            wall, processor = time.perf_counter() - begin, time.process_time() - spent
            result[f"network alone, {windows} windows, threads {threads}"] = round(25 * wall, 2)
            result[f"its processor time, {windows} windows, threads {threads}"] = round(25 * processor, 2)
    champions.close()
    return result


def main() -> None:
    """Make the home if it is not there, measure, and print JSON."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "home"
    if folder.name == "--serve":
        serve(Path(sys.argv[2]))
        return
    if not folder.exists():
        make_home(folder)
    told: dict[str, Any] = {"inside, ms": inside(folder)}
    command = [sys.executable, "-m", "benchmarks.serving.on_demand", "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        port = int(process.stdout.readline() if process.stdout else 0)
        try:
            told |= asyncio.run(measure(port, bodies(), psutil.Process(process.pid)))
        finally:
            process.terminate()
    sys.stdout.write(json.dumps(told | {"cores": os.cpu_count()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
