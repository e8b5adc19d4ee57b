"""Runs over REST: listed, read, cancelled, with their logs and the queue; a real worker host executes some."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from forecast.config.jobs import Cause, Due, Job
from forecast.ledger import Ledger
from forecast.scheduling.job_book import JobBook
from forecast.scheduling.lease import SCHEDULER, Lease

if TYPE_CHECKING:
    from forecast.installation import Installation

NOW = datetime(2024, 5, 1, tzinfo=UTC)
FORECAST = Job.model_validate({"dataset": "tiny", "steps": ["forecast"]})
QUERIES = [
    ("limit=0", "limit.out_of_range"),
    ("limit=1001", "limit.out_of_range"),
    ("limit=many", "limit.not_a_number"),
    ("before=0", "before.out_of_range"),
    ("before=" + "9" * 40, "before.out_of_range"),
    ("state=runing", "state.unknown"),
    ("job=%00", "job.malformed"),
    ("jobb=nightly", "parameter.unknown"),
]
PATHS = [
    ("GET", "/v1/runs/7", 404, "run.unknown"),
    ("DELETE", "/v1/runs/7", 404, "run.unknown"),
    ("GET", "/v1/runs/7/log", 404, "run.unknown"),
    ("GET", "/v1/runs/7/events", 404, "run.unknown"),
    ("GET", "/v1/runs/0", 422, "run.out_of_range"),
    ("GET", "/v1/runs/" + "9" * 40, 422, "run.out_of_range"),
    ("GET", "/v1/runs/last", 422, "run.not_a_number"),
    ("GET", "/v1/queue?limit=0", 422, "limit.out_of_range"),
]


def due(name: str, cause: Cause = Cause.CRON) -> Due:
    return Due(logical_date=name, at=NOW, cause=cause)


def claimed(ledger: Ledger, job: str = "hourly", count: int = 1, dataset: str = "tiny") -> list[int]:
    definition = FORECAST.model_copy(update={"dataset": dataset})
    return [ledger.runs.claim(job, definition, [due(f"{job}-{n}", Cause.HAND)], NOW)[0] for n in range(count)]


def test_runs_are_listed_newest_first_page_by_page(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    client = serve(home)
    assert client.get("/v1/runs").json() == {"runs": [], "next_before": None}
    claimed(home.ledger, count=5)
    seen, before = [], None
    while True:
        page = client.get("/v1/runs", params={"limit": 2} | ({"before": before} if before else {})).json()
        seen += [run["run_id"] for run in page["runs"]]
        before = page["next_before"]
        if before is None:
            break
    assert seen == [5, 4, 3, 2, 1]


def test_runs_are_filtered_and_coalesced_ones_are_shown_only_when_asked_for(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    client = serve(home)
    claimed(home.ledger, "other")
    home.ledger.runs.claim("hourly", FORECAST, [due("a"), due("b"), due("c")], NOW)
    home.ledger.runs.cancel(1, NOW)

    def numbers(query: str) -> list[int]:
        return [run["run_id"] for run in client.get(f"/v1/runs?{query}").json()["runs"]]

    assert numbers("") == [4, 1]
    assert numbers("job=hourly") == [4]
    assert numbers("state=coalesced") == [3, 2]
    assert numbers("state=coalesced,cancelled&state=queued") == [4, 3, 2, 1]
    assert numbers("dataset=tiny&state=cancelled") == [1]
    assert client.get("/v1/runs/2").json()["coalesced_into"] == 4
    unknown = client.get("/v1/runs?dataset=tinny")
    assert (unknown.status_code, unknown.json()["remedy"]) == (404, 'did you mean "tiny"?')


def test_what_cannot_be_meant_is_refused_with_a_stable_code(
    home: Installation, serve: Callable[[Installation], httpx.Client], subtests: pytest.Subtests
) -> None:
    client = serve(home)
    for query, code in QUERIES:
        with subtests.test(query=query[:20]):
            answer = client.get(f"/v1/runs?{query}")
            assert (answer.status_code, answer.json()["code"]) == (422, code)
    for method, path, status, code in PATHS:
        with subtests.test(method=method, path=path[:20]):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"


def test_the_queue_lists_positions_hosts_and_the_scheduler(
    home: Installation, serve: Callable[[Installation], httpx.Client]
) -> None:
    client = serve(home)
    empty = {"waiting": 0, "queue": [], "hosts": [], "scheduler": None}
    assert client.get("/v1/queue").json() == empty
    claimed(home.ledger, count=3)
    taken = home.ledger.runs.take("elsewhere", NOW, trainings=1, others=1)
    assert taken is not None
    lease = Lease(home.ledger, SCHEDULER, "the one")
    assert lease.hold()
    queue = client.get("/v1/queue?limit=1").json()
    assert (queue["waiting"], queue["scheduler"]) == (2, "the one")
    assert [(one["position"], one["run"]["run_id"]) for one in queue["queue"]] == [(1, 2)]
    assert [client.get(f"/v1/runs/{n}").json()["position"] for n in (1, 2, 3)] == [None, 1, 2]


def test_a_log_is_read_in_parts(home: Installation, serve: Callable[[Installation], httpx.Client]) -> None:
    client = serve(home)
    claimed(home.ledger)
    nothing = client.get("/v1/runs/1/log")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "run.no_log")
    text = "erste Zeile\nzweite Zeile: 5 µm\n".encode()
    home.home.run_log(1).write_bytes(text)

    def part(after: int) -> tuple[bytes, int]:
        answer = client.get("/v1/runs/1/log", params={"after": after})
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.content, int(answer.headers["log-next"])

    assert part(0) == (text, len(text))
    assert part(12) == (text[12:], len(text))
    assert part(-5) == (text[-5:], len(text))
    assert part(-1000) == (text, len(text))
    assert part(1000) == (b"", len(text))
    home.home.run_log(1).write_bytes(b"x" * (2**20 + 5))
    assert part(0) == (b"x" * 2**20, 2**20)
    assert part(2**20) == (b"x" * 5, 2**20 + 5)


def test_a_run_that_waits_is_cancelled_once(home: Installation, serve: Callable[[Installation], httpx.Client]) -> None:
    client = serve(home)
    claimed(home.ledger)
    cancelled = client.delete("/v1/runs/1")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    again = client.delete("/v1/runs/1")
    assert (again.status_code, again.json()["code"]) == (409, "run.ended")


def test_links_lead_to_what_belongs_to_a_run(
    home: Installation,
    serve: Callable[[Installation], httpx.Client],
    working: Callable[[], subprocess.Popen[bytes]],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@tracking.example:5000/")
    client = serve(home)
    JobBook(home).add("asked", FORECAST)
    path = client.post("/v1/jobs/asked/runs").headers["location"]
    working()
    wait_until(lambda: client.get(path).json()["state"] == "succeeded", 60)
    run = client.get(path).json()
    assert [(one["number"], one["outcome"]) for one in run["attempts"]] == [(1, "succeeded")]
    assert run["progress"] == 1.0
    links: Mapping[str, Any] = run["links"]
    assert client.get(links["self"]).json() == run
    wait_until(lambda: "run 1 succeeded: forecast" in client.get(links["log"]).text)
    assert client.get(links["job"]).json()["last_run"]["run_id"] == 1
    wait_until(lambda: client.get(links["forecast"]).status_code == 200)
    assert client.get(links["forecast"]).json()["forecast_id"] == run["forecast_id"]
    assert "tracking" not in links
    with home.ledger._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE runs SET tracking_run = 'abc123'")
    assert client.get(path).json()["links"]["tracking"] == "http://tracking.example:5000/#/runs/abc123"
