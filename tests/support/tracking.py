"""MLflow's store and server."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from forecast.home import Home
    from forecast.scheduling.supervisor import Supervisor


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without any run, to be copied: MLflow takes seconds to make one."""
    from forecast.home import Home
    from forecast.tracking.registry import Registry

    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it, for whoever comes next
        Registry(Home(folder))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def tracking_server(tracking_database: Path) -> Callable[[Path], AbstractContextManager[tuple[str, Supervisor]]]:
    """Run MLflow's own server in a folder, which keeps artifacts where it likes: its address, and what can stop it."""
    from forecast.scheduling.supervisor import Member, Supervisor

    @contextmanager
    def serving(folder: Path) -> Iterator[tuple[str, Supervisor]]:
        shutil.copyfile(tracking_database, folder / "mlflow.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1",
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with Supervisor([Member("mlflow", command, f"{url}/health", quiet)], folder) as supervisor:
            supervisor.wait_until_ready()
            yield url, supervisor

    return serving


@pytest.fixture(scope="session")
def tracking_url(
    tmp_path_factory: pytest.TempPathFactory,
    tracking_server: Callable[[Path], AbstractContextManager[tuple[str, Supervisor]]],
) -> Iterator[str]:
    """The address of an MLflow server that all tests share."""
    with tracking_server(tmp_path_factory.mktemp("server")) as (url, _):
        yield url


@pytest.fixture(params=["sqlite", "server"])
def tracking_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose runs are tracked in its own file, and one whose runs are by a server."""
    from forecast.home import Home

    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("tracking_url"))
    else:
        shutil.copyfile(request.getfixturevalue("tracking_database"), tmp_path / "mlflow.db")
    return Home(tmp_path)
