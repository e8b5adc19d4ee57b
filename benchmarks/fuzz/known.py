"""Requests that must succeed, from the content of the installation and the examples of the document."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from forecast.home import Home

JOB = "fuzzed"
"""A job in the ledger, which exists before each request."""
_NEW = {"dataset": "tiny", "steps": ["ingest", "forecast"], "cron": "5 * * * *"}
_ROWS = {"time": "2024-01-01T00:00:00", "site": "east", "load": 50.0, "price": 30.0, "wind": 4.0}
_QUEUE = frozenset({"/v1/jobs/{job}/runs", "/v1/models/{dataset}/promote", "/v1/models/{dataset}/rollback"})
"""Routes that queue a run."""
_TABLES = ("application/json", "text/csv", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a request."""

    path: dict[str, Any] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    media: str | None = None


class Known:
    """The content of the installation; builds requests and cleans up after them."""

    def __init__(self, client: httpx.Client, document: Mapping[str, Any], home: Home) -> None:
        self._client = client
        self._document = document
        self._number = 0
        described = client.get("/v1/datasets/tiny").raise_for_status().json()
        self._series: list[str] = described["series"]
        self._version: str = described["champion"]["model_version"]
        self._earlier: str = client.get("/v1/models/tiny").raise_for_status().json()["previous"]["model_version"]
        if client.get(f"/v1/jobs/{JOB}").status_code == 404:
            self._add(JOB)
        self._ended = self._run()
        self._cancel(self._ended)
        home.run_log(self._ended).parent.mkdir(parents=True, exist_ok=True)
        home.run_log(self._ended).write_text("what a worker would have written\n", encoding="utf-8")

    @property
    def path(self) -> dict[str, Any]:
        """Path parameters of existing things."""
        return {"dataset": "tiny", "name": "tiny", "version": "champion", "job": JOB, "run": self._ended}

    def request(self, method: str, route: str, random: Random) -> Parts:
        """Return a request of a route that must succeed with 2xx; may first create the things it needs."""
        names = {name: value for name, value in self.path.items() if f"{{{name}}}" in route}
        make = _MAKERS.get((method, route))
        if make is not None:
            made: Parts = getattr(self, make)(names, random)
            return made
        content = self._document["paths"][route][method.lower()].get("requestBody", {}).get("content", {})
        examples = content.get("application/json", {}).get("examples", {})
        if examples:
            return Parts(names, body=random.choice(list(examples.values()))["value"], media="application/json")
        return Parts(names)

    def tidy(self, method: str, route: str, status: int, content: bytes) -> None:
        """Delete the things that a request created, so that the store does not grow with the number of requests."""
        if not 200 <= status < 300 or method not in {"POST", "PATCH", "DELETE"}:
            return
        if (method, route) == ("POST", "/v1/jobs"):
            name = json.loads(content)["name"]
            if name != JOB:
                self._client.delete(f"/v1/jobs/{name}").raise_for_status()
        elif method == "POST" and route in _QUEUE:
            for run in json.loads(content)["runs"]:
                self._cancel(run)
        elif route == "/v1/jobs/{job}":
            self._client.delete(f"/v1/jobs/{JOB}")
            self._add(JOB)

    def series(self, random: Random) -> list[str]:
        """Return some series."""
        return random.sample(self._series, random.randint(1, len(self._series)))

    def _forecast(self, names: dict[str, Any], random: Random) -> Parts:
        whole = {"horizon": random.randint(1, 200), "quantiles": ["0.1", "0.5"], "tz": "Europe/Berlin"}
        whole |= {"series": self.series(random), "channels": ["load"], "model": self._version}
        return Parts(names, _some(whole, random), _accept(random))

    def _observations(self, names: dict[str, Any], random: Random) -> Parts:
        whole = {"start": "2024-01-02T00:00:00Z", "end": "2024-01-03T00:00:00+01:00", "tz": "America/New_York"}
        whole |= {"series": self.series(random), "channels": ["wind", "load"], "limit": random.randint(1, 10**6)}
        return Parts(names, _some(whole, random), _accept(random))

    def _rows(self, names: dict[str, Any], random: Random) -> Parts:
        first = {name: value + random.random() if isinstance(value, float) else value for name, value in _ROWS.items()}
        records = [first | {"site": name} for name in self.series(random)]
        return Parts(names, body=records if random.random() < 0.5 else {"rows": records}, media="application/json")

    def _new_job(self, _names: dict[str, Any], random: Random) -> Parts:
        self._number += 1
        whole = {"retries": random.randint(0, 9), "minutes": random.uniform(1, 90), "zone": "Europe/Berlin"}
        whole |= {"catch_up": random.choice(["latest", "each"]), "time_limit": "2h", "memory_limit": "2GB"}
        body = _NEW | {"name": f"fuzzed-{self._number}"} | _some(whole, random)
        return Parts(body=body, media="application/json")

    def _changed_job(self, names: dict[str, Any], random: Random) -> Parts:
        body = _some({"paused": True, "cron": "0 4 * * *", "retries": 3, "zone": None}, random)
        return Parts(names, body=body, media="application/json")

    def _removed_job(self, names: dict[str, Any], _random: Random) -> Parts:
        self._number += 1
        self._add(f"fuzzed-{self._number}")
        return Parts(names | {"job": f"fuzzed-{self._number}"})

    def _wanted_run(self, names: dict[str, Any], random: Random) -> Parts:
        begin = random.randint(1, 20)  # dates with a run do not run again, so an empty list is valid
        between = {"first": f"2024-01-{begin:02}T00:00:00Z", "last": f"2024-01-{begin:02}T06:00:00Z"}
        return Parts(names, body=random.choice([{}, between]), media="application/json")

    def _promoted(self, names: dict[str, Any], _random: Random) -> Parts:
        return Parts(names, body={"version": self._earlier}, media="application/json")

    def _cancelled_run(self, names: dict[str, Any], _random: Random) -> Parts:
        return Parts(names | {"run": self._run()})

    def _accuracy(self, names: dict[str, Any], random: Random) -> Parts:
        by = random.choice(["all", "lead_time", "lead_group", "channel", "model", "series"])
        return Parts(names, {"by": by} | _some({"window": "30d", "channel": "load", "model": "any"}, random))

    def _runs(self, _names: dict[str, Any], random: Random) -> Parts:
        whole = {"dataset": "tiny", "job": JOB, "state": "queued,cancelled", "before": 10**9, "limit": 100}
        return Parts(query=_some(whole, random))

    def _log(self, names: dict[str, Any], random: Random) -> Parts:
        return Parts(names, {"after": random.randint(-(2**63) + 1, 2**63 - 1)})

    def _params(self, _names: dict[str, Any], random: Random) -> Parts:
        return Parts(query=_some({"model": "tiny", "freq": "h"}, random))

    def _add(self, name: str) -> None:
        self._client.post("/v1/jobs", json=_NEW | {"name": name}).raise_for_status()

    def _run(self) -> int:
        runs: list[int] = self._client.post(f"/v1/jobs/{JOB}/runs").raise_for_status().json()["runs"]
        return runs[0]

    def _cancel(self, run: int) -> None:
        self._client.delete(f"/v1/runs/{run}")


def _some(whole: Mapping[str, Any], random: Random) -> dict[str, Any]:
    return {name: value for name, value in whole.items() if random.random() < 0.5}


def _accept(random: Random) -> dict[str, str]:
    return {"Accept": random.choice(_TABLES)}


_MAKERS: Mapping[tuple[str, str], str] = {
    ("GET", "/v1/datasets/{dataset}/forecast"): "_forecast",
    ("GET", "/v1/datasets/{dataset}/observations"): "_observations",
    ("POST", "/v1/datasets/{dataset}/observations"): "_rows",
    ("POST", "/v1/datasets/{dataset}/validate"): "_rows",
    ("GET", "/v1/datasets/{dataset}/accuracy"): "_accuracy",
    ("POST", "/v1/jobs"): "_new_job",
    ("PATCH", "/v1/jobs/{job}"): "_changed_job",
    ("DELETE", "/v1/jobs/{job}"): "_removed_job",
    ("POST", "/v1/jobs/{job}/runs"): "_wanted_run",
    ("POST", "/v1/models/{dataset}/promote"): "_promoted",
    ("DELETE", "/v1/runs/{run}"): "_cancelled_run",
    ("GET", "/v1/runs"): "_runs",
    ("GET", "/v1/runs/{run}/log"): "_log",
    ("GET", "/model_params"): "_params",
}
"""Routes whose examples in the document are not sufficient for a request."""
