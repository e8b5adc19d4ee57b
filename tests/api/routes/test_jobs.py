"""Jobs over REST: defined, changed, paused, removed, run now and for the dates of a range."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import BaseModel

from api.schemas import jobs as job_schemas

if TYPE_CHECKING:
    from forecast.installation import Installation

JOB = {"name": "hourly", "dataset": "tiny", "steps": ["ingest", "forecast"], "cron": "5 * * * *"}
MISTAKES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"cron": "61 * * * *"}, "cron.malformed", "body.cron", "five fields"),
    ({"cron": "every night"}, "cron.malformed", "body.cron", "five fields"),
    ({"zone": "Mars/Olympus"}, "zone.malformed", "body.zone", "IANA"),
    ({"steps": []}, "steps.empty", "body.steps", "/docs"),
    ({"steps": ["retrian"]}, "steps.unknown", "body.steps.0", "'retrain'"),
    ({"steps": ["score", "score"]}, "body.contradictory", "body", "/docs"),
    ({"steps": ["tune"]}, "body.contradictory", "body", "/docs"),
    ({"on": ["daat"]}, "on.unknown", "body.on.0", "'data'"),
    ({"on": ["data"]}, "body.contradictory", "body", "/docs"),
    ({"time_limit": "soon"}, "time_limit.malformed", "body.time_limit", "whole number"),
    ({"time_limit": ""}, "body.contradictory", "body", "/docs"),
    ({"memory_limit": "8 gigabytes"}, "memory_limit.malformed", "body.memory_limit", "8GB"),
    ({"retries": -1}, "retries.out_of_range", "body.retries", "/docs"),
    ({"retries": "two"}, "retries.not_a_number", "body.retries", "/docs"),
    ({"cores": 0}, "cores.out_of_range", "body.cores", "/docs"),
    ({"minutes": 0}, "minutes.out_of_range", "body.minutes", "/docs"),
    ({"name": "No Name"}, "name.malformed", "body.name", "lower-case letters"),
    ({"name": None}, "name.malformed", "body.name", "lower-case letters"),
    ({"dataset": "tinny"}, "job.no_data_set", "", 'did you mean "tiny"?'),
    ({"crn": "* * * * *"}, "field.unknown", "body", 'did you mean "cron"?'),
]
BODIES: list[tuple[bytes, str, int, str]] = [
    (b"not json", "application/json", 422, "body.not_json"),
    (b"[1]", "application/json", 422, "body.malformed"),
    (b'{"name": "\xff"}', "application/json", 422, "body.not_json"),
    (b'{"name": "\\ud800"}', "application/json", 422, "body.not_json"),
    (b'{"minutes": NaN}', "application/json", 422, "dataset.missing"),
    (b"name=hourly", "application/x-www-form-urlencoded", 415, "body.not_json"),
    (b" " * 300_000, "application/json", 413, "body.too_large"),
    (b"[" * 100_000, "application/json", 422, "body.not_json"),
]
RANGES: list[tuple[dict[str, Any], str]] = [
    ({"first": "2024-01-01T00:00:00Z"}, "body.contradictory"),
    ({"first": "2024-01-01T00:00:00", "last": "2024-01-02T00:00:00Z"}, "first.without_offset"),
    ({"first": "0001-01-01T00:00:00+14:00", "last": "2024-01-02T00:00:00Z"}, "first.out_of_range"),
    ({"first": "2024-01-01T00:00:00Z", "last": "9999-12-31T23:59:59-14:00"}, "last.out_of_range"),
    ({"first": "2024-01-02T00:00:00Z", "last": "2024-01-01T00:00:00Z"}, "job.range"),
    ({"first": "2024-01-02T00:00:00Z", "last": "2999-01-01T00:00:00Z"}, "job.range"),
    ({"first": "1950-01-02T00:00:00Z", "last": "2024-01-01T00:00:00Z"}, "job.range"),
    ({"first": "yesterday", "last": "2024-01-01T00:00:00Z"}, "first.malformed"),
    ({"begin": "2024-01-01T00:00:00Z"}, "field.unknown"),
]


@pytest.fixture
def tiny_document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The tiny config file with a job of its own."""
    tiny_document["jobs"] = {"nightly": {"dataset": "tiny", "steps": ["retrain", "forecast"], "cron": "30 2 * * *"}}
    return tiny_document


@pytest.fixture
def client(make_home: Callable[..., Installation], serve: Callable[[Installation], httpx.Client]) -> httpx.Client:
    return serve(make_home())


def test_a_job_is_added_read_changed_and_removed(client: httpx.Client) -> None:
    added = client.post("/v1/jobs", json=JOB)
    assert (added.status_code, added.headers["location"]) == (201, "/v1/jobs/hourly")
    job = added.json()
    assert {name: job[name] for name in JOB} == JOB
    assert (job["origin"], job["paused"], job["last_run"], job["retries"]) == ("ledger", False, None, 1)
    due = datetime.fromisoformat(job["next"])
    assert due.minute == 5
    assert timedelta() < due - datetime.now(UTC) <= timedelta(hours=1)
    assert client.get("/v1/jobs/hourly").json() == job
    changed = client.patch("/v1/jobs/hourly", json={"cron": "45 * * * *", "retries": 3, "zone": "Europe/Berlin"})
    assert changed.status_code == 200
    assert (changed.json()["cron"], changed.json()["retries"]) == ("45 * * * *", 3)
    assert changed.json()["steps"] == JOB["steps"]
    assert client.patch("/v1/jobs/hourly", json={"retries": None, "zone": None}).json()["retries"] == 1
    assert client.delete("/v1/jobs/hourly").status_code == 204
    assert client.get("/v1/jobs/hourly").json()["code"] == "job.unknown"


def test_jobs_of_the_job_file_come_first_and_can_only_be_paused(client: httpx.Client) -> None:
    client.post("/v1/jobs", json=JOB)
    assert [(config["name"], config["origin"]) for config in client.get("/v1/jobs").json()["jobs"]] == [
        ("nightly", "job_file"),
        ("hourly", "ledger"),
    ]
    refused = [
        client.patch("/v1/jobs/nightly", json={"cron": "0 1 * * *"}),
        client.patch("/v1/jobs/nightly", json={"cron": "0 1 * * *", "paused": True}),
        client.delete("/v1/jobs/nightly"),
    ]
    assert [(one.status_code, one.json()["code"]) for one in refused] == [(409, "job.in_job_file")] * 3
    assert client.get("/v1/jobs/nightly").json()["paused"] is False
    paused = client.patch("/v1/jobs/nightly", json={"paused": True}).json()
    assert (paused["paused"], paused["next"]) == (True, None)
    resumed = client.patch("/v1/jobs/nightly", json={"paused": False}).json()
    assert resumed["paused"] is False
    assert resumed["next"] is not None


def test_a_name_is_given_once(client: httpx.Client) -> None:
    assert client.post("/v1/jobs", json=JOB).status_code == 201
    for name in ("hourly", "nightly"):
        again = client.post("/v1/jobs", json=JOB | {"name": name})
        assert (again.status_code, again.json()["code"]) == (409, "job.exists")


def test_a_job_stays_with_its_data_set(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], serve: Callable[[Installation], httpx.Client]
) -> None:
    tiny_document["datasets"]["other"] = tiny_document["datasets"]["tiny"]
    client = serve(make_home(document=tiny_document))
    client.post("/v1/jobs", json=JOB)
    moved = client.patch("/v1/jobs/hourly", json={"dataset": "other"})
    assert (moved.status_code, moved.json()["code"]) == (409, "job.other_data_set")


def test_an_unknown_job_is_answered_with_the_nearest(client: httpx.Client, subtests: pytest.Subtests) -> None:
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/v1/jobs/nigthly", None),
        ("PATCH", "/v1/jobs/nigthly", {"paused": True}),
        ("DELETE", "/v1/jobs/nigthly", None),
        ("POST", "/v1/jobs/nigthly/runs", {}),
    ]
    for method, path, body in calls:
        with subtests.test(method=method):
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "job.unknown")
            assert answer.json()["remedy"] == 'did you mean "nightly"?'
            assert "nigthly" not in answer.text


def test_a_mistake_in_a_job_is_answered_with_its_place_and_not_repeated(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    client.post("/v1/jobs", json=JOB | {"name": "there"})
    for fields, code, where, remedy in MISTAKES:
        ways = {"POST": ("/v1/jobs", JOB | fields), "PATCH": ("/v1/jobs/there", fields)}
        for method, (path, body) in ways.items():
            if method == "PATCH" and "name" in fields:
                continue
            with subtests.test(method=method, fields=fields):
                answer = client.request(method, path, json=body)
                problem = answer.json()
                assert (answer.status_code, problem["code"]) == (422, code)
                assert answer.headers["content-type"] == "application/problem+json"
                assert remedy in problem["remedy"]
                if where:
                    assert problem["mistakes"][0]["where"] == where
                sent = [word for field in fields.values() for word in (field if isinstance(field, list) else [field])]
                if code != "body.contradictory":  # that names the steps and triggers there are
                    assert [word for word in sent if isinstance(word, str) and word and word in answer.text] == []
    assert [config["name"] for config in client.get("/v1/jobs").json()["jobs"]] == ["nightly", "there"]


def test_every_mistake_of_a_body_is_listed(client: httpx.Client) -> None:
    problem = client.post("/v1/jobs", json={"steps": ["x"], "retries": 50}).json()
    assert [one["code"] for one in problem["mistakes"]] == [
        "dataset.missing", "steps.unknown", "retries.out_of_range", "name.missing",
    ]  # fmt: skip
    assert all(one["detail"] and one["remedy"] for one in problem["mistakes"])


def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for content, media, status, code in BODIES:
        with subtests.test(content=content[:20]):
            answer = client.post("/v1/jobs", content=content, headers={"Content-Type": media})
            assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_page_of_another_site_cannot_add_or_run_jobs(client: httpx.Client, subtests: pytest.Subtests) -> None:
    calls = [("POST", "/v1/jobs"), ("PATCH", "/v1/jobs/nightly"), ("DELETE", "/v1/jobs/nightly")]
    for method, path in [*calls, ("POST", "/v1/jobs/nightly/runs"), ("DELETE", "/v1/runs/1")]:
        with subtests.test(method=method, path=path):
            answer = client.request(method, path, json={}, headers={"Origin": "http://evil.example"})
            assert (answer.status_code, answer.json()["code"]) == (403, "origin.foreign")


def test_a_run_is_queued_now_each_time_it_is_asked_for(client: httpx.Client) -> None:
    for number, body in enumerate((None, {}), 1):
        queued = client.post("/v1/jobs/nightly/runs", json=body) if body else client.post("/v1/jobs/nightly/runs")
        assert (queued.status_code, queued.json()) == (202, {"runs": [number]})
        run = client.get(queued.headers["location"]).json()
        assert (run["run_id"], run["state"], run["cause"], run["position"]) == (number, "queued", "hand", number)
    assert client.get("/v1/jobs/nightly").json()["last_run"]["run_id"] == 2


def test_a_back_fill_queues_each_date_of_a_range_once(client: httpx.Client) -> None:
    week = {"first": "2024-05-01T02:30:00Z", "last": "2024-05-07T04:30:00+02:00"}
    queued = client.post("/v1/jobs/nightly/runs", json=week)
    assert (queued.status_code, queued.json()) == (202, {"runs": [1, 2, 3, 4, 5, 6, 7]})
    assert client.get("/v1/runs/1").json()["logical_date"] == "2024-05-01T02:30"
    assert client.post("/v1/jobs/nightly/runs", json=week).json() == {"runs": []}


def test_a_range_that_cannot_be_is_refused(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for body, code in RANGES:
        with subtests.test(body=body):
            answer = client.post("/v1/jobs/nightly/runs", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, code)
    client.post("/v1/jobs", json={"name": "asked", "dataset": "tiny", "steps": ["forecast"]})
    answer = client.post("/v1/jobs/asked/runs", json={"first": "2024-05-01T00:00:00Z", "last": "2024-05-02T00:00:00Z"})
    assert answer.json()["code"] == "job.no_cron"


def test_a_job_that_is_removed_leaves_its_runs_and_none_that_wait(client: httpx.Client) -> None:
    client.post("/v1/jobs", json=JOB)
    client.post("/v1/jobs/hourly/runs")
    assert client.delete("/v1/jobs/hourly").status_code == 204
    assert client.get("/v1/queue").json()["waiting"] == 0
    assert [run["state"] for run in client.get("/v1/runs?job=hourly").json()["runs"]] == ["cancelled"]


def test_every_example_is_what_its_model_takes() -> None:
    models = [kind for kind in vars(job_schemas).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    examples = [
        (kind, one) for kind in models for one in (kind.model_config.get("json_schema_extra") or {}).get("examples", ())
    ]
    assert len(examples) >= 12
    for kind, example in examples:
        assert kind.model_validate(example)


def test_every_reference_of_the_interfaces_description_leads_somewhere(client: httpx.Client) -> None:
    document = client.get("/openapi.json")
    described = document.json()["components"]["schemas"]
    names = set(re.findall(r'"#/components/schemas/(\w+)"', document.text))
    assert names
    assert names <= described.keys()
    assert "#/$defs" not in document.text
    ours = (
        "JobInfo",
        "JobList",
        "QueuedRuns",
        "RunInfo",
        "AttemptInfo",
        "RunDetail",
        "RunsPage",
        "HostInfo",
        "QueueInfo",
    )
    assert [name for name in ours if not described[name].get("examples")] == []
    body = document.json()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["examples"][0]["cron"] == "30 2 * * *"
    assert "cron" in body["properties"]["cron"]["description"]
