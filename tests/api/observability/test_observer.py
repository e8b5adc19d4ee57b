from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.limits import Limits
from api.observability import logs
from api.observability.operations import Operations
from forecast.errors import ConfigError
from forecast.ledger.keys import Scope, id_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from forecast.installation import Installation
    from tests.api.conftest import Served

FORECAST = "/v1/datasets/tiny/forecast"
PLANTED = "planted-by-a-client"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, object]]]]:
    """What the service logs while a test runs, as machines read it."""
    stream, root = io.StringIO(), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logs, "_lines", None)
    level = root.level
    logs.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.setLevel(level)


def figures(client: httpx.Client, **headers: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = client.get("/metrics", headers=headers).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_answer_has_the_id_of_its_request(served: Served) -> None:
    given = served.client.get(FORECAST, headers={"X-Request-Id": "abc-123.X_y"})
    assert given.headers["x-request-id"] == "abc-123.X_y"
    refused = served.client.get("/v1/datasets/nothing", headers={"X-Request-Id": "lost"})
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "lost"
    made = [served.client.get("/healthz").headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    for bad in ("", "x" * 65, "a b", '"; DROP', "{{7*7}}"):
        assert served.client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad


def test_metrics_are_labelled_by_route_as_declared(served: Served) -> None:
    for path in (FORECAST, FORECAST, "/v1/datasets/tiny", f"/{PLANTED}", f"/v1/datasets/{PLANTED}"):
        served.client.get(path, headers={"X-Request-Id": PLANTED})
    served.client.get(FORECAST, headers={"If-None-Match": served.get().headers["etag"]})
    served.client.request("PROPFIND", "/healthz")
    metrics = figures(served.client)
    labels = (("method", "GET"), ("route", "/v1/datasets/{dataset}/forecast"), ("status", "200"))
    assert metrics["forecast_request_seconds_count", labels] == 3
    unmatched = (("method", "GET"), ("route", "unmatched"), ("status", "404"))
    assert metrics["forecast_request_seconds_count", unmatched] == 1
    assert not any(PLANTED in str(key) for key in metrics)
    assert metrics["forecast_answers_total", (("source", "memory"),)] == 3
    assert metrics["forecast_answers_total", (("source", "not_modified"),)] == 1
    assert metrics["forecast_requests_in_flight", ()] == 1
    assert metrics["forecast_stale", (("dataset", "tiny"),)] in {0, 1}
    assert metrics["forecast_age_seconds", (("dataset", "tiny"),)] >= 0
    assert metrics["forecast_data_age_seconds", (("dataset", "tiny"),)] > 0
    assert metrics["forecast_queue_length", ()] == 0
    assert metrics["forecast_runs", (("state", "failed"),)] == 0
    assert metrics["process_resident_memory_bytes", ()] > 0
    methods = {dict(key[1]).get("method") for key in metrics} - {None}
    assert methods == {"GET", "other"}


def test_refusals_are_counted_by_code(home: Installation, serve: Callable[..., httpx.Client]) -> None:
    client = serve(home, Limits(max_body_mib=1))
    client.post("/v1/datasets/tiny/validate", content=bytes(2**20 + 1))
    assert figures(client)["forecast_refused_total", (("code", "body.too_large"),)] == 1


def test_each_request_is_one_line_that_repeats_nothing_of_it(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str],
    lines: Callable[[], list[dict[str, object]]],
) -> None:  # fmt: skip
    key = make_key(home, Scope.READ)
    client = serve(home)
    secret = "a-secret-in-a-query"  # noqa: S105
    client.get(f"/v1/datasets/tiny?{secret}", headers={"X-API-Key": key, "X-Request-Id": "mine"})
    client.get(f"/v1/{secret}%0Aforged", headers={"User-Agent": secret})
    requests = [line for line in lines() if line["logger"] == "api.requests" and line["route"] != "/healthz"]
    assert [set(line) for line in requests] == 2 * [
        {"time", "level", "logger", "request_id", "method", "route", "status", "milliseconds", "key_id"}
    ]
    assert requests[0] | {"time": 0, "milliseconds": 0} == {
        "time": 0, "level": "info", "logger": "api.requests", "request_id": "mine", "method": "GET",
        "route": "/v1/datasets/{dataset}", "status": 200, "milliseconds": 0, "key_id": id_in(key),
    }  # fmt: skip
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(requests[0]["time"]))
    assert requests[1]["route"] == "unmatched"
    ours = json.dumps([line for line in lines() if line["logger"] != "httpx"])  # the client logs here too
    assert secret not in ours
    assert key not in ours


def test_a_format_of_the_log_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError) as refused:
        logs.configure(io.StringIO())
    assert refused.value.code == "log.format"


def test_readiness_reports_a_missing_scheduler_and_missing_workers(
    make_home: Callable[..., Installation], tiny_document: dict[str, object]
) -> None:
    tiny_document["jobs"] = {"nightly": {"dataset": "tiny", "steps": ["ingest"], "cron": "0 2 * * *"}}
    home, now = make_home(document=tiny_document), [0.0]
    operations = Operations(home, lambda: now[0])
    operations.refresh()
    assert operations.reasons() == ["scheduler.absent", "worker.absent"]
    home.ledger.leases.take("scheduler", "somebody", None)
    operations.refresh()
    assert operations.reasons() == ["worker.absent"]
    now[0] = 20.0
    operations.refresh()
    assert operations.reasons() == ["scheduler.stalled", "worker.absent"]
    home.ledger.leases.renew("scheduler", "somebody")
    operations.refresh()
    assert operations.reasons() == ["worker.absent"]


def test_an_installation_without_jobs_needs_no_scheduler(served: Served) -> None:
    assert served.client.get("/readyz").json()["reasons"] == []


class _Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_go_to_a_collector_if_one_is_named(
    home: Installation, serve: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:  # fmt: skip
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    received: list[tuple[str, bytes]] = []
    collector = HTTPServer(("127.0.0.1", 0), type("Handler", (_Collector,), {"received": received}))
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    trace = "0af7651916cd43dd8448eb211c80319c"
    try:
        serve(home).get("/v1/datasets/tiny", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        wait_until(lambda: any(bytes.fromhex(trace) in body for _, body in received))
        assert {path for path, _ in received} == {"/v1/traces"}
        assert any(b"GET /v1/datasets/{dataset}" in body for _, body in received)
    finally:
        collector.shutdown()
        collector.server_close()


def test_without_a_collector_nothing_of_tracing_is_imported() -> None:
    code = "import sys, api.app, api.observability.tracing as tracing; assert tracing.Tracer.if_configured() is None; "
    code += "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
