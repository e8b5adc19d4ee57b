from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.app import create_app
from api.auth.scopes import RouteScope, RouteScopes
from api.limits import Exposure
from forecast.clock import SystemClock
from forecast.ledger.keys import Scope, id_in
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecast.installation import Installation

FORECAST = "/v1/datasets/tiny/forecast"


@dataclass(frozen=True)
class Locked:
    """A service with keys, and the key of each role."""

    home: Installation
    client: httpx.Client
    keys: dict[str, str]
    rules: tuple[RouteScope, ...]

    def ask(self, method: str, path: str, role: str | None = None, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[role]}"} if role else {}
        # Streamed: of a route that tells of events for ever, the status is enough.
        with self.client.stream(method, path, headers=headers, timeout=30, **more) as answer:
            if answer.headers.get("content-type", "").partition(";")[0] != "text/event-stream":
                answer.read()
            return answer


@pytest.fixture
def two_sets(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., Any],
    crowned: Callable[..., Any],
) -> Installation:  # fmt: skip
    tiny_document["datasets"]["other"] = copy.deepcopy(tiny_document["datasets"]["tiny"])
    installation = make_home(tiny_rows(), tiny_document)
    for name in ("tiny", "other"):
        ingest(installation.dataset(name))
    crowned(installation)
    issue(installation.dataset("tiny"))
    return installation


@pytest.fixture
def locked(two_sets: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]) -> Locked:
    keys = {str(scope): make_key(two_sets, scope) for scope in Scope}
    keys["tiny only"] = make_key(two_sets, Scope.ADMIN, "tiny")
    keys["other only"] = make_key(two_sets, Scope.ADMIN, "other")
    keys["expired"] = make_key(two_sets, Scope.ADMIN, expires=timedelta(seconds=-1))
    keys["revoked"] = make_key(two_sets, Scope.ADMIN)
    two_sets.ledger.keys.revoke(id_in(keys["revoked"]) or "", SystemClock().now())
    keys["forged"] = keys["admin"][:-4] + ("AAAA" if keys["admin"][-4:] != "AAAA" else "BBBB")
    keys["unknown"] = "fck_000000000000_" + "x" * 43
    rules: RouteScopes = create_app(two_sets).state.rules
    return Locked(two_sets, serve(two_sets), keys, rules.all)


def test_every_route_declares_what_it_needs(home: Installation) -> None:
    rules = create_app(home).state.rules.all
    assert [rule.template for rule in rules if not rule.is_declared] == []
    without_scope = {rule.template for rule in rules if rule.scope is None}
    assert without_scope == {"/healthz", "/readyz", "/static/{name}", "/static-offline-docs", "/login", "/logout"}


def test_who_may_call_what(locked: Locked, subtests: pytest.Subtests) -> None:
    described = locked.ask("GET", "/openapi.json", "read").json()["paths"]
    calls = [(method.upper(), template) for template, item in described.items() for method in item]
    declared = {(method, rule.template): rule for rule in locked.rules for method in rule.methods}
    assert len(calls) >= 8
    for method, template in calls:
        rule = declared[method, template]
        documented = set(described[template][method.lower()]["responses"])
        assert (documented >= {"401", "403", "429"}) == (rule.scope is not None)
        names_one = "{dataset}" in template or "{name}" in template
        path = template.replace("{dataset}", "tiny").replace("{name}", "tiny").replace("{", "").replace("}", "")
        needs = rule.scope is not None
        strangers = (None, "expired", "revoked", "forged", "unknown")
        expected: dict[str | None, int | None] = dict.fromkeys(strangers, 401 if needs else None)
        expected |= {str(scope): None if rule.scope is None or scope.implies(rule.scope) else 403 for scope in Scope}
        limited = rule.scope is not None and not rule.own
        expected["tiny only"] = 403 if limited and not names_one else None
        expected["other only"] = 403 if (limited or names_one) and rule.scope is not None else None
        for role, status in expected.items():
            with subtests.test(method=method, path=path, role=role):
                answer = locked.ask(method, path, role, content=b"")
                if role == "other only" and rule.own and not names_one:
                    assert answer.status_code != 401  # the route itself tells what is another's
                elif status is None:
                    assert answer.status_code not in {401, 403}
                else:
                    assert answer.status_code == status
                    assert answer.json()["code"] in {"key.missing", "key.scope", "key.other_dataset"}
                    assert ("www-authenticate" in answer.headers) is (status == 401)
        if rule.scope is not None:
            assert described[template][method.lower()]["security"]


def test_what_is_not_described_needs_a_key_too(locked: Locked, subtests: pytest.Subtests) -> None:
    for rule in locked.rules:
        if rule.scope is not None and rule.is_page:
            with subtests.test(path=rule.template):
                assert locked.ask("GET", rule.template).status_code == 401
                assert locked.ask("GET", rule.template, "read").status_code in {200, 404, 422}


def test_a_key_is_also_taken_as_a_header_of_its_own(locked: Locked) -> None:
    sent = {"X-API-Key": locked.keys["read"]}
    assert locked.client.get(FORECAST, headers=sent).status_code == 200
    for wrong in ("Basic eDp5", "Bearer", "Bearer é".encode(), f"Token {locked.keys['read']}"):
        assert locked.client.get(FORECAST, headers={"Authorization": wrong}).status_code == 401


def test_a_limited_key_learns_of_its_data_sets_alone(locked: Locked) -> None:
    listed = locked.ask("GET", "/v1/datasets", "other only").json()["datasets"]
    assert [item["name"] for item in listed] == ["other"]
    assert [item["dataset"] for item in locked.ask("GET", "/readyz", "other only").json()["datasets"]] == ["other"]
    # Of one that does not exist it learns as much as of one that is not its own.
    answers = [locked.ask("GET", f"/v1/datasets/{name}/forecast", "other only") for name in ("tiny", "nothing")]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "key.other_dataset")}
    assert locked.ask("GET", "/?dataset=tiny", "other only").status_code == 403
    assert "tiny" not in locked.ask("GET", "/", "other only").text


def test_readiness_has_no_reasons_without_a_key(locked: Locked) -> None:
    readiness = locked.ask("GET", "/readyz").json()
    assert (readiness["status"], readiness["reasons"], readiness["datasets"]) == ("not ready", [], [])
    assert len(locked.ask("GET", "/readyz", "read").json()["datasets"]) == 2


def test_a_key_opens_nothing_seconds_after_it_is_revoked(locked: Locked, wait_until: Callable[..., None]) -> None:
    assert locked.ask("GET", FORECAST, "read").status_code == 200
    locked.home.ledger.keys.revoke(id_in(locked.keys["read"]) or "", SystemClock().now())
    wait_until(lambda: locked.ask("GET", FORECAST, "read").status_code == 401, 5)


def test_the_first_key_closes_a_service_that_runs(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str],
    wait_until: Callable[..., None],
) -> None:  # fmt: skip
    client = serve(home)
    assert client.get("/v1/datasets").status_code == 200
    key = make_key(home, Scope.READ)
    wait_until(lambda: client.get("/v1/datasets").status_code == 401, 5)
    # And it stays closed: the last key that goes must not open it to everybody.
    home.ledger.keys.revoke(id_in(key) or "", SystemClock().now())
    wait_until(lambda: client.get("/v1/datasets", headers={"X-API-Key": key}).status_code == 401, 5)
    assert client.get("/v1/datasets").status_code == 401


def test_beyond_loopback_nothing_is_open_and_only_exact_names_are_answered(
    home: Installation, serve: Callable[..., httpx.Client], make_key: Callable[..., str]
) -> None:
    exposed = Exposure(beyond_loopback=True, hosts=frozenset({"forecast.example.org"}))
    client = serve(home, exposure=exposed)
    assert client.get("/v1/datasets").status_code == 401
    statuses = {
        host: client.get("/healthz", headers={"Host": host}).status_code
        for host in ("forecast.example.org", "FORECAST.example.org:443", "evil.org", "forecast-example.org")
    }
    assert list(statuses.values()) == [200, 200, 400, 400]
    assert client.get("/readyz", headers={"X-API-Key": make_key(home, Scope.READ)}).json()["status"] == "not ready"


def test_an_address_without_a_route_reveals_nothing(locked: Locked) -> None:
    assert locked.ask("GET", "/v1/nothing").json()["code"] == "route.unknown"
    wrong = locked.ask("DELETE", FORECAST, "admin")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")


def test_no_text_of_a_key_is_stored(locked: Locked) -> None:
    content = b"".join(file.read_bytes() for file in locked.home.home.path.glob("ledger.db*"))
    for text in locked.keys.values():
        assert text.encode() not in content
        assert text.split("_", 2)[2].encode() not in content  # a secret may have a _ itself
