from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest

from api.auth.keyring import Keyring
from api.auth.sessions import Sessions, cookie_in, set_cookie
from forecast.clock import SystemClock
from forecast.ledger.keys import Scope, id_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation

ROWS = "/v1/datasets/tiny/observations"
BROWSER = {"Accept": "text/html"}


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A clock that always returns the same time."""

    instant: datetime

    def now(self) -> datetime:
        return self.instant


@pytest.fixture
def browser(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]
) -> tuple[httpx.Client, str]:
    """A client that keeps cookies, and a key with the scope ``write``."""
    return serve(home), make_key(home, Scope.WRITE)


def log_in(client: httpx.Client, key: str) -> httpx.Response:
    return client.post("/login", data={"key": key}, headers=BROWSER)


def wait_until_locked(client: httpx.Client, wait_until: Callable[..., None]) -> None:
    wait_until(lambda: client.get("/v1/datasets").status_code == 401, 5)


def test_a_browser_logs_in_looks_writes_and_logs_out(
    browser: tuple[httpx.Client, str], wait_until: Callable[..., None]
) -> None:
    client, key = browser
    wait_until_locked(client, wait_until)
    sent = client.get("/", headers=BROWSER)
    assert (sent.status_code, sent.headers["location"]) == (303, "/login")
    assert "Log in" in client.get("/login").text
    opened = log_in(client, key)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} < set(cookie.split("; "))
    assert key not in cookie
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200
    token = re.search(r'name="csrf-token" content="([0-9a-f]+)"', page.text)
    assert token
    without = client.post(ROWS, json=[])
    assert (without.status_code, without.json()["code"]) == (403, "csrf.missing")
    wrong = client.post(ROWS, json=[], headers={"X-CSRF-Token": token[1][::-1]})
    assert wrong.status_code == 403
    assert client.post(ROWS, json=[], headers={"X-CSRF-Token": token[1]}).status_code not in {401, 403}
    assert client.post("/logout", data={"csrf": "nonsense"}).status_code == 403
    assert client.post("/logout", data={"csrf": token[1]}).status_code == 303
    assert client.get("/", headers=BROWSER).status_code == 303


def test_a_wrong_key_opens_no_session(browser: tuple[httpx.Client, str], wait_until: Callable[..., None]) -> None:
    client, key = browser
    wait_until_locked(client, wait_until)
    for wrong in ("", "hunter2", key[:-1], "<script>", "x" * 3000):
        refused = log_in(client, wrong)
        assert refused.status_code == 401
        assert "set-cookie" not in refused.headers
        assert not wrong or wrong not in refused.text
    assert log_in(client, "x" * 10_000).status_code == 413


def test_a_page_of_another_site_cannot_log_in(browser: tuple[httpx.Client, str]) -> None:
    client, key = browser
    sent = client.post("/login", data={"key": key}, headers={"Origin": "http://evil.example"})
    assert sent.json()["code"] == "origin.foreign"


def test_a_session_ends_with_its_key(
    browser: tuple[httpx.Client, str], home: Installation, wait_until: Callable[..., None]
) -> None:
    client, key = browser
    wait_until_locked(client, wait_until)
    log_in(client, key)
    assert client.get("/v1/datasets").status_code == 200
    home.ledger.keys.revoke(id_in(key) or "", SystemClock().now())
    wait_until(lambda: client.get("/v1/datasets").status_code == 401, 5)


def test_a_session_cannot_be_forged_stretched_or_moved(home: Installation, make_key: Callable[..., str]) -> None:
    keys = [make_key(home, Scope.READ), make_key(home, Scope.ADMIN)]
    ring = Keyring(home.ledger)
    ring.refresh()
    now = SystemClock().now()
    sessions = Sessions(ring, timedelta(hours=1), b"secret", FixedClock(now))
    access = ring.identify(keys[0])
    assert access
    cookie = sessions.open(access)
    assert sessions.recognise(cookie)
    parts = cookie.split(".")
    later = ".".join([parts[0], str(int(parts[1]) + 3600), *parts[2:]])
    other = ".".join([id_in(keys[1]) or "", *parts[1:]])
    for forged in (later, other, cookie[:-1], "", "....", "é" * 9, cookie + "x"):
        assert sessions.recognise(forged) is None
    ended = Sessions(ring, timedelta(hours=1), b"secret", FixedClock(now + timedelta(hours=1)))
    assert ended.recognise(cookie) is None
    assert Sessions(ring, timedelta(hours=1), b"another", FixedClock(now)).recognise(cookie) is None


def test_over_https_the_cookie_is_secure() -> None:
    header = set_cookie("value", timedelta(hours=1), secure=True)
    assert header.startswith("__Host-forecast-session=value; ")
    assert header.endswith("; Secure")
    assert cookie_in("a=b; __Host-forecast-session=value; forecast-session=planted") == "value"
    assert cookie_in("a=b") is None
