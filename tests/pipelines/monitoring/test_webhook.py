from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from forecast.clock import SystemClock
from forecast.config.alerts import AlertKind
from forecast.errors import ConfigError
from forecast.installation import Installation
from forecast.monitoring.alerts import AlertFinding
from pipelines.monitoring import webhook
from pipelines.monitoring.score import score
from pipelines.monitoring.webhook import SIGNATURE, deliver

OLD = AlertFinding(AlertKind.STALE, "data", "nothing was observed for 7.0 h", 25200.0, 21600.0)
DRIFT = AlertFinding(AlertKind.DRIFT, "load", "load is spread otherwise", 0.4, 0.25)


class Receiver(ThreadingHTTPServer):
    """A web server that records posted bodies and answers with configured statuses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.taken: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.taken]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, dict(self.headers), body))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status in {301, 302, 307, 308}:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.taken.append((self.path, dict(self.headers), b"null"))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("no_proxy", "*")
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def home(make_home: Callable[..., Installation], tiny_document: dict[str, Any], receiver: Receiver) -> Installation:
    tiny_document["datasets"]["tiny"]["webhook"] = receiver.url
    return make_home(None, tiny_document)


def now() -> datetime:
    return SystemClock().now()


def test_each_alert_is_posted_once_when_it_is_raised_and_once_when_it_is_over(
    home: Installation, receiver: Receiver
) -> None:
    (alert,), _ = home.ledger.alerts.update("tiny", [OLD], now())
    assert deliver(home.dataset("tiny")) == (1, "")
    assert deliver(home.dataset("tiny")) == (0, "")
    home.ledger.alerts.update("tiny", [], now())
    assert deliver(home.dataset("tiny")) == (1, "")
    raised, resolved = receiver.documents
    assert [path for path, _, _ in receiver.taken] == ["/hook", "/hook"]
    assert (raised["state"], resolved["state"]) == ("raised", "resolved")
    assert raised["sequence"] == resolved["sequence"] == alert.sequence
    assert raised["id"] != resolved["id"]
    assert (raised["dataset"], raised["kind"], raised["subject"]) == ("tiny", "stale", "data")
    assert (raised["message"], raised["value"], raised["limit"]) == (OLD.message, 25200.0, 21600.0)
    assert raised["told"] == OLD.message  # deprecated
    assert datetime.fromisoformat(raised["raised_at"]) == alert.raised_at
    assert receiver.taken[0][1]["Content-Type"] == "application/json"


def test_with_a_secret_the_body_is_signed(
    home: Installation, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_WEBHOOK_SECRET", "swordfish")
    home.ledger.alerts.update("tiny", [OLD], now())
    deliver(home.dataset("tiny"))
    ((_, headers, body),) = receiver.taken
    assert headers[SIGNATURE] == "sha256=" + hmac.new(b"swordfish", body, hashlib.sha256).hexdigest()


def test_without_a_secret_nothing_is_signed(home: Installation, receiver: Receiver) -> None:
    home.ledger.alerts.update("tiny", [OLD], now())
    deliver(home.dataset("tiny"))
    assert SIGNATURE not in receiver.taken[0][1]


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook.time, "sleep", lambda _: None)


@pytest.mark.usefixtures("_at_once")
def test_a_temporary_failure_of_the_receiver_is_retried(home: Installation, receiver: Receiver) -> None:
    receiver.answers = [503, 500]
    home.ledger.alerts.update("tiny", [OLD], now())
    assert deliver(home.dataset("tiny")) == (1, "")
    assert len(receiver.taken) == 3
    assert len({body for _, _, body in receiver.taken}) == 1


@pytest.mark.usefixtures("_at_once")
def test_what_was_not_taken_is_posted_with_the_next_score(home: Installation, receiver: Receiver) -> None:
    receiver.answers = [500] * 3
    home.ledger.alerts.update("tiny", [OLD, DRIFT], now())
    assert deliver(home.dataset("tiny")) == (0, "status 500")
    assert len(receiver.taken) == 3, "the second alert waits: whoever does not take one takes no other"
    assert deliver(home.dataset("tiny")) == (2, "")
    assert [one["kind"] for one in receiver.documents[3:]] == ["stale", "drift"]


def test_a_redirect_is_not_followed(home: Installation, receiver: Receiver) -> None:
    receiver.answers = [307, 302, 301]
    home.ledger.alerts.update("tiny", [OLD], now())
    for status in (307, 302, 301):
        assert deliver(home.dataset("tiny")) == (0, f"status {status}")
    assert [path for path, _, _ in receiver.taken] == ["/hook"] * 3


def test_a_refused_alert_is_not_retried_at_once(home: Installation, receiver: Receiver) -> None:
    receiver.answers = [404]
    home.ledger.alerts.update("tiny", [OLD], now())
    assert deliver(home.dataset("tiny")) == (0, "status 404")
    assert len(receiver.taken) == 1


@pytest.mark.usefixtures("_at_once")
def test_a_webhook_that_is_down_fails_no_scoring(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    receiver.server_close()
    tiny_document["datasets"]["tiny"]["webhook"] = receiver.url
    home = make_home(None, tiny_document)
    home.ledger.alerts.update("tiny", [DRIFT], now())
    assert "the webhook failed" in score(home.dataset("tiny")).message
    assert "to the webhook failed" in caplog.text
    assert home.ledger.alerts.find("tiny")[0].resolved_at is not None, "no rule finds it any more"


def test_without_a_webhook_nothing_is_sent(make_home: Callable[..., Installation]) -> None:
    home = make_home()
    home.ledger.alerts.update("tiny", [OLD], datetime(2024, 1, 1, tzinfo=UTC))
    assert deliver(home.dataset("tiny")) == (0, "")


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://host/x", "https://", "host/path", "http://a b/", "http://host:port/"]
)
def test_only_addresses_of_web_servers_are_taken(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], address: str
) -> None:
    tiny_document["datasets"]["tiny"]["webhook"] = address
    with pytest.raises(ConfigError, match="is not a valid URL"):
        make_home(None, tiny_document)
