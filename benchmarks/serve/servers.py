"""The measured servers, each in a process of its own on a port of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Running:
    """A running server."""

    port: int
    process: psutil.Process
    seconds: float
    """Seconds from its start until its first response."""


@contextmanager
def running(
    command: list[str], path: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a command with its ``PORT`` replaced, wait until ``path`` returns 200, and stop it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
        )
    one = psutil.Process(process.pid)
    try:
        while get(port, path) is None:
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.02)
        yield Running(port, one, time.perf_counter() - begin)
    finally:
        for child in [*one.children(recursive=True), one] if one.is_running() else []:
            child.terminate()
        process.wait(30)


def get(port: int, path: str, key: str = "") -> bytes | None:
    """Return the body of a response with status 200, or ``None``."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read()
    except OSError:
        return None
    finally:
        connection.close()
    return body if answer.status == 200 else None


def service(home: Path, log: Path, **environment: str) -> AbstractContextManager[Running]:
    """Run the service as users do, with its JSON log in a file, and by default without a rate limit."""
    command = [sys.executable, "-m", "forecast", "serve", "--home", str(home), "--port", "PORT"]
    usual = {"FORECAST_RATE_PER_SECOND": "0", "FORECAST_LOG_FORMAT": "json"}
    return running(command, "/readyz", log, usual | environment)


def rival(name: str, log: Path, *given: str) -> AbstractContextManager[Running]:
    """Run one of the servers of ``benchmarks.serve.rivals``."""
    command = [sys.executable, "-m", "benchmarks.serve.rivals", name, "PORT", *given]
    return running(command, "/healthz", log)


def mlflow(model: Path, log: Path) -> AbstractContextManager[Running]:
    """Run ``mlflow models serve`` in this environment on a model in MLflow's format."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--port", "PORT"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # mlflow looks for uvicorn there
    return running([*command, "--env-manager", "local"], "/ping", log, {"PATH": path})
