"""Fuzzer: sends valid and invalid requests to every route and checks each response against the document."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from benchmarks.fuzz.known import Known
from forecast.home import Home

LONGEST_SECONDS = 5.0
LEAST_SUCCESS = 0.3
ENDLESS = frozenset({"GET /v1/events"})
"""Streams that end only when the client disconnects; tests/api/events/test_streams.py tests them."""
_KNOWN, _PLACED, _VALID = 0.45, 0.2, 0.15
"""Shares of requests: those that must succeed, those that fit the schema and name existing things, those that fit the
schema."""
_ACCEPTED = ["2xx", "3xx", "401", "403", "404", "409", "422", "429"]
"""Statuses of requests that fit the schema. It does not list series, zones and trained levels, hence 422."""


@dataclass
class Tally:
    """Counts of a route's requests and responses."""

    statuses: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0

    @property
    def requests(self) -> int:
        """Number of responses."""
        return self.statuses.total()

    @property
    def success(self) -> float:
        """Share of 2xx."""
        good = sum(count for status, count in self.statuses.items() if 200 <= status < 300)
        return good / max(1, self.requests)


class Fuzzer:
    """Sends requests to a running service; the same seed gives the same requests."""

    def __init__(self, address: str, key: str, home: Home, number: int = 1) -> None:
        self.tallies: dict[str, Tally] = {}
        self.wrong: dict[tuple[str, str], str] = {}
        """The first failure of each kind, by route and kind."""
        self._headers = {"Authorization": f"Bearer {key}"}
        self._seed = number
        self._client = httpx.Client(base_url=address, headers=self._headers, timeout=30, trust_env=False)
        document = self._client.get("/openapi.json").raise_for_status().json()
        config = {
            "base-url": address,
            "generation": {"with-security-parameters": False},  # the key is the fuzzer's own
            "checks": {
                "positive_data_acceptance": {"expected-statuses": _ACCEPTED},
                "max_response_time": LONGEST_SECONDS,
            },
        }
        self._schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(config))
        self._known = Known(self._client, document, home)
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
        self._client.close()

    def operations(self) -> Iterator[APIOperation]:
        """Yield every operation to fuzz."""
        for found in self._schema.get_all_operations():
            if not isinstance(found, Ok):  # an invalid document is a fault of the service
                raise found.err()
            operation = found.ok()
            if operation.label not in ENDLESS:
                yield operation

    def run(self, each: int) -> None:
        """Send a number of requests to each route."""
        for operation in self.operations():
            self.ask(operation, each)

    def ask(self, operation: APIOperation, count: int) -> None:
        """Send a number of requests to one route."""
        tally = self.tallies.setdefault(operation.label, Tally())
        end = tally.requests + count
        names = {name: value for name, value in self._known.path.items() if f"{{{name}}}" in operation.path}
        self._generated(operation, GenerationMode.POSITIVE, round(count * _PLACED), {"path_parameters": names or None})
        self._generated(operation, GenerationMode.POSITIVE, round(count * _VALID), {})
        if _takes_something(operation):
            self._generated(operation, GenerationMode.NEGATIVE, round(count * (1 - _KNOWN - _PLACED - _VALID)), {})
        random = Random(f"{self._seed} {operation.label} {end}")  # noqa: S311
        while tally.requests < end:  # also for a route without parameters, which has no variants
            parts = self._known.request(operation.method.upper(), operation.path, random)
            body = {} if parts.media is None else {"body": parts.body, "media_type": parts.media}
            case = operation.Case(path_parameters=parts.path, query=parts.query, headers=parts.headers, **body)
            status = self._send(operation, case)
            if status is not None and not 200 <= status < 300:
                self._note(operation, "a request that must succeed", f"{status}: {parts}")

    def too_few_successes(self) -> dict[str, float]:
        """Return the routes with too few successful requests."""
        return {label: tally.success for label, tally in self.tallies.items() if tally.success < LEAST_SUCCESS}

    def _generated(self, operation: APIOperation, mode: GenerationMode, count: int, fixed: Mapping[str, Any]) -> None:
        if not count:
            return

        @seed(self._seed + self.tallies[operation.label].requests)  # another round sends other requests
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(mode, **fixed))
        def ask(case: Case) -> None:
            self._send(operation, case)

        with suppress(Unsatisfiable):  # every text fits a parameter that is any text
            ask()

    def _send(self, operation: APIOperation, case: Case) -> int | None:
        began = time.monotonic()
        try:
            answer = case.call(session=self._session, headers=self._headers, timeout=4 * LONGEST_SECONDS)
        except requests.RequestException as error:
            self._note(operation, type(error).__name__, case.as_curl_command())
            return None
        tally = self.tallies[operation.label]
        tally.longest = max(tally.longest, time.monotonic() - began)
        tally.statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, headers=self._headers)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._note(operation, type(failure).__name__, str(group))
        self._known.tidy(operation.method.upper(), operation.path, answer.status_code, answer.content)
        return answer.status_code

    def _note(self, operation: APIOperation, kind: str, message: str) -> None:
        self.wrong.setdefault((operation.label, kind), message)


def _takes_something(operation: APIOperation) -> bool:
    return bool(operation.path_parameters or operation.query or operation.headers or operation.body)
