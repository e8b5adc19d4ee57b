from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from api.server import listen, serve
from forecast.errors import ConfigError, ConflictError
from pipelines.predict import issue

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation

SERVE = """
import sys
from pathlib import Path
from api.server import serve
from forecast.installation import Installation
serve(Installation.open(Path(sys.argv[1])), "127.0.0.1", int(sys.argv[2]))
"""

# Calls every route that OpenAPI describes, and the page, from inside the serving process.
CALL_EVERYTHING = """
import json, sys, threading
from pathlib import Path
import httpx
from api.server import listen, server
from forecast.installation import Installation

listener = listen("127.0.0.1", 0)
one = server(Installation.open(Path(sys.argv[1])))
thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
thread.start()
with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False, timeout=60) as client:
    described = client.get("/openapi.json").json()["paths"]
    rows = [{"time": "2024-01-01 00:00:00", "site": "east", "load": 1, "price": 2, "wind": 3}]
    calls = []
    for path, item in described.items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", ()):
                path = path.replace("{%s}" % parameter["name"], parameter.get("example", ""))
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = [example["value"] for example in content.get("examples", {}).values()]
            calls += [(method, path, body) for body in bodies or [rows if method == "post" else None]]
    calls += [("get", path, None) for path in ("/", "/?horizon=60", "/docs", "/v1/datasets/tiny/forecast?horizon=60")]
    calls += [("get", "/v1/datasets/tiny/forecast?as_of=2100-01-01T00:00:00Z", None)]
    calls += [("get", "/v1/datasets/tiny/forecast?lead_time=3h", None)]
    statuses = {
        f"{method} {path} {number}": client.request(method, path, json=body).status_code
        for number, (method, path, body) in enumerate(calls)
    }
one.should_exit = True
thread.join()
heavy = [name for name in ("torch", "darts", "mlflow", "pandas", "lightning", "triton") if name in sys.modules]
print(json.dumps({"statuses": statuses, "heavy": heavy}))
"""


def test_the_serving_process_never_loads_a_training_framework(home: Installation) -> None:
    issue("tiny", home)
    done = subprocess.run(
        [sys.executable, "-c", CALL_EVERYTHING, home.home.path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["statuses"].values()) == {200}, told
    assert len(told["statuses"]) >= 10
    assert told["heavy"] == []


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_until_it_is_asked_to_stop(
    home: Installation, stop: signal.Signals, wait_until: Callable[..., None]
) -> None:
    issue("tiny", home)
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, home.home.path, str(port)],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as process:

        def ready() -> bool:
            assert process.poll() is None, process.stderr.read()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready)
        process.send_signal(stop)
        log = process.communicate(timeout=20)[1]
    assert process.returncode == 0, log
    assert f"http://127.0.0.1:{port}" in log
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_refused_before_anything_starts(home: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=rf"port {port}.*--port") as refused:
            serve(home, "127.0.0.1", port)
    assert refused.value.code == "port.taken"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])  # noqa: S104 - that is the point
def test_an_address_that_others_can_reach_is_refused(home: Installation, host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        serve(home, host, 0)
    assert refused.value.code == "serve.not_loopback"
    assert refused.value.remedy


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigError) as refused:
        listen("127.0.0.1", port)
    assert refused.value.code == "port.out_of_range"
