"""What ``compose.yaml`` would run in containers, run as processes on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from forecast.config.jobs import Job
from forecast.scheduling.job_book import JobBook
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from tests.deploy.conftest import Compose

if TYPE_CHECKING:
    import polars as pl

    from forecast.installation import Installation

REPLICAS = ("service-1", "service-2")
ASKED = "/v1/datasets/tiny/forecast?series=east&horizon=6"


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def proxy(compose: Any) -> Iterator[str]:
    """Run nginx in front of the replicas."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not on this machine: apt-get install nginx-light")
    message = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    command = [nginx, "-p", compose.folder, "-c", compose.configuration(), "-e", "stderr", "-g", message]
    with (compose.folder / "nginx.log").open("ab") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield compose.address("nginx:8080")
        finally:
            process.send_signal(signal.SIGQUIT)


@contextmanager
def under_load(address: str) -> Iterator[Counter[str]]:
    """Ask again and again, over connections that are kept, and count what comes."""
    seen: Counter[str] = Counter()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
            while not ended.wait(0.02):
                try:
                    message = client.get(ASKED)
                    seen[f"{message.status_code}" if message.status_code == 200 else message.text] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class _Hello(BaseHTTPRequestHandler):
    """Answers everything, and does not keep connections."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_told: object) -> None:
        pass


@contextmanager
def answering(port: int) -> Iterator[None]:
    """Listen on a port, and answer."""
    with ThreadingHTTPServer(("127.0.0.1", port), _Hello) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown()
            thread.join()


def test_a_replica_that_has_just_come_back_answers_when_the_other_one_goes(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    found = Compose(tmp_path)
    first, second = (found.ports[f"{replica}:8000"] for replica in REPLICAS)
    with proxy(found) as front:
        for gone, left in ((first, second), (second, first)):
            with answering(left):
                wait_until(lambda: is_ready(front))
                assert [is_ready(front) for _ in range(4)] == [True] * 4, f"{gone} is left out"
            with answering(gone):
                assert [is_ready(front) for _ in range(4)] == [True] * 4


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_parts_of_the_compose_file_work_together_and_replicas_restart_without_a_failed_request(
    compose: Any,
    make_home: Callable[..., Installation],
    tiny_rows: Callable[..., pl.DataFrame],
    tiny_document: dict[str, Any],
    crown: Callable[..., Any],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compose.run("prepare")
    assert (compose.home / "forecast.toml").is_file()
    for name, value in compose.environment("worker-1").items():
        monkeypatch.setenv(name, value)
    installation = make_home(tiny_rows(), tiny_document, compose.home)
    ingest(installation.dataset("tiny"))
    crown(installation)
    issue(installation.dataset("tiny"))
    for part in (*REPLICAS, "worker-1", "worker-2", "scheduler-1"):
        compose.start(part)

    # Three runs at once are more than one worker host takes.
    tiny_rows(410).write_csv(compose.home / "rows.csv")
    book = JobBook(installation)
    for number in range(3):
        job = {"dataset": "tiny", "steps": ["ingest", "forecast"]}
        book.add(f"job-{number}", Job.model_validate(job))
        book.run_now(f"job-{number}")

    with proxy(compose) as front:
        for replica in REPLICAS:
            address = compose.address(f"{replica}:8000")
            wait_until(lambda address=address: is_ready(address), 90)
        wait_until(lambda: is_ready(front))
        before = httpx.get(front + ASKED, trust_env=False).json()
        with under_load(front) as seen:
            wait_until(lambda: seen.total() > 20)
            for replica in REPLICAS:
                stopped = compose.running[replica]
                stopped.terminate()
                assert stopped.wait(timeout=30) == 0, compose.log(replica)
                answered = seen.total()
                wait_until(lambda answered=answered: seen.total() > answered + 20, 90)  # by the other one
                compose.start(replica)
                address = compose.address(f"{replica}:8000")
                wait_until(lambda address=address: is_ready(address), 90)
        assert set(seen) == {"200"}, seen

        wait_until(lambda: all(run.state == "succeeded" for run in installation.ledger.runs.find()), 90)
        runs = installation.ledger.runs.find()
        assert len(runs) == 3
        assert {run.host for run in runs} == {"worker-1", "worker-2"}
        lease = installation.ledger.leases.get("scheduler")
        assert lease is not None
        assert lease[0].startswith("scheduler-1:")
        issued = installation.ledger.issuances.latest("tiny")
        assert issued is not None

        def is_served() -> bool:
            message = httpx.get(front + ASKED, trust_env=False)
            return message.headers["ETag"].startswith(f'W/"{issued.forecast_id}')

        wait_until(is_served)
        assert json.dumps(before) != httpx.get(front + ASKED, trust_env=False).text
    assert not (compose.home / "ledger.db").exists()
    assert not list((compose.home / "lake").iterdir())
