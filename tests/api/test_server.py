from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from api.limits import Exposure
from api.server import exposure_of, listen, serve
from forecast.clock import SystemClock
from forecast.errors import ConfigError, ConflictError
from forecast.ledger.keys import Scope, id_in
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

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
    names = {"dataset": "tiny", "job": "asked", "run": "1"}
    job = {"name": "asked", "dataset": "tiny", "steps": ["forecast"]}
    rows = [{"time": "2024-01-01 00:00:00", "site": "east", "load": 1, "price": 2, "wind": 3}]
    known = {"/v1/jobs": job, "/v1/jobs/{job}": {"paused": False}, "/v1/jobs/{job}/runs": {},
             "/v1/models/{dataset}/promote": {"version": "repeat_last-tiny-1"}}
    calls = []
    for template, item in described.items():
        for method, operation in item.items():
            path = template
            for parameter in operation.get("parameters", ()):
                value = names.get(parameter["name"], parameter.get("example", ""))
                path = path.replace("{%s}" % parameter["name"], value)
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = [example["value"] for example in content.get("examples", {}).values()]
            if template in known:
                bodies = [] if method in ("get", "delete") else [known[template]]
            calls += [(method, path, body) for body in bodies or [rows if method == "post" else None]]
    calls.sort(key=lambda call: (["post", "get", "patch", "delete"].index(call[0]), call[1] == "/v1/jobs/asked"))
    calls += [("get", path, None) for path in ("/", "/?horizon=60", "/docs", "/v1/datasets/tiny/forecast?horizon=60")]
    calls += [("get", "/v1/datasets/tiny/forecast?as_of=2100-01-01T00:00:00Z", None)]
    calls += [("get", "/v1/datasets/tiny/forecast?lead_time=3h", None)]
    pages = ("/accuracy", "/accuracy/detail?window=all", "/models", "/runs", "/data", "/download?format=parquet")
    calls += [("get", path, None) for path in pages]
    Path(sys.argv[1], "logs", "run-1.log").write_text("a line\\n")
    statuses = {}
    for number, (method, path, body) in enumerate(calls):
        with client.stream(method, path, json=body) as answer:  # some go on for ever
            statuses[f"{method} {path} {number}"] = answer.status_code
            if "event-stream" not in answer.headers.get("content-type", ""):
                answer.read()
one.should_exit = True
thread.join()
rss = next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmRSS:"))
mapped = [word for word in ("libtorch", "libmlflow", "libtriton") if word in open("/proc/self/maps").read()]
heavy = [name for name in ("torch", "darts", "mlflow", "pandas", "lightning", "triton") if name in sys.modules]
print(json.dumps({"statuses": statuses, "heavy": heavy + mapped, "rss": rss}))
"""


def test_the_serving_process_never_loads_a_training_framework(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., Any],
    crowned: Callable[..., Any],
) -> None:  # fmt: skip
    names = ("tiny", "second", "third")
    tiny_document["datasets"] |= {name: copy.deepcopy(tiny_document["datasets"]["tiny"]) for name in names}
    home = make_home(tiny_rows(), tiny_document)
    for name in names:
        ingest(home.dataset(name))
        for number in (1, 2):  # one was champion before
            crowned(home, f"repeat_last-{name}-{number}", dataset=name)
        issue(home.dataset(name))
    done = subprocess.run(
        [sys.executable, "-c", CALL_EVERYTHING, home.home.path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"FORECAST_DEFAULT_DATASET": "tiny"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["statuses"].values()) <= {200, 201, 202, 204}, report
    assert len(report["statuses"]) >= 20
    assert report["heavy"] == []
    assert report["rss"] < 400, "MiB with three data sets"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_until_it_is_asked_to_stop(
    home: Installation, stop: signal.Signals, wait_until: Callable[..., None]
) -> None:
    issue(home.dataset("tiny"))
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
        spent = psutil.Process(process.pid).cpu_times()
        assert spent.user + spent.system < 5, "seconds of CPU from the start to readiness"
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - that is the point
def test_an_address_that_others_can_reach_needs_a_key(home: Installation, host: str) -> None:
    with pytest.raises(ConfigError, match="forecast keys create") as refused:
        serve(home, host, 0)
    assert refused.value.code == "serve.no_keys"


@pytest.mark.parametrize("host", ["example.org", "", "0.0.0.0.0"])
def test_what_is_no_address_is_refused(home: Installation, host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        serve(home, host, 0)
    assert refused.value.code == "serve.not_an_address"
    assert refused.value.remedy


def test_an_address_that_others_can_reach_is_asked_by_exact_names(
    home: Installation, make_key: Callable[..., str]
) -> None:
    make_key(home, Scope.READ)
    with pytest.raises(ConfigError) as refused:
        exposure_of("0.0.0.0", (), home.ledger)  # noqa: S104
    assert refused.value.code == "serve.no_hosts"
    with pytest.raises(ConfigError) as refused:
        exposure_of("0.0.0.0", ["*.example.org"], home.ledger)  # noqa: S104
    assert refused.value.code == "serve.malformed_host"
    assert exposure_of("192.0.2.1", (), home.ledger) == Exposure(beyond_loopback=True, hosts=frozenset({"192.0.2.1"}))
    named = exposure_of("::", ["One.example.org,two.example.org"], home.ledger)
    assert named.hosts == {"one.example.org", "two.example.org"}


def test_a_revoked_key_is_no_key(home: Installation, make_key: Callable[..., str]) -> None:
    key = make_key(home, Scope.ADMIN)
    home.ledger.keys.revoke(id_in(key) or "", SystemClock().now())
    with pytest.raises(ConfigError) as refused:
        exposure_of("192.0.2.1", (), home.ledger)
    assert refused.value.code == "serve.no_keys"


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigError) as refused:
        listen("127.0.0.1", port)
    assert refused.value.code == "port.out_of_range"
