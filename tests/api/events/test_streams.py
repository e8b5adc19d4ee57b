"""Server-sent events over a real socket: each client receives every event once, in order, also after a reconnect."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from filelock import FileLock

from api.server import listen, server
from api.state.event_feed import Feed, Wanted
from forecast.config.jobs import Cause, Due, Job
from forecast.ledger.run import Run
from forecast.scheduling.job_book import JobBook
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

NOW = datetime(2024, 5, 1, tzinfo=UTC)
REFRESH = Job.model_validate({"dataset": "tiny", "steps": ["ingest", "forecast"]})
NIGHT = Job.model_validate({"dataset": "tiny", "steps": ["retrain"]})
SERVE = """
import sys
from pathlib import Path
from api.server import serve
from forecast.installation import Installation
serve(Installation.open(Path(sys.argv[1])), "127.0.0.1", int(sys.argv[2]))
"""


@dataclass
class Message:
    """One event of a stream."""

    number: str
    kind: str
    data: dict[str, Any]

    @property
    def message(self) -> tuple[str, Any]:
        """Its kind and what it says, in short."""
        return self.kind, self.data.get("lines") or self.data.get("details", {}).get("state") or self.data["kind"]


def messages(answer: httpx.Response) -> Iterator[Message]:
    """Read a stream as the standard has it."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Message(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def lines_of(seen: list[Message]) -> list[str]:
    """Return the lines of a log that were sent."""
    return [line for message in seen if message.kind == "log" for line in message.data["lines"]]


@dataclass
class Follower:
    """A client that follows a stream in a thread, until it ends or is cut off."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[Message] = field(default_factory=list)
    status: int | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        try:
            with httpx.stream("GET", self.url, headers=self.headers, timeout=60, trust_env=False) as answer:
                self.status = answer.status_code
                for message in messages(answer):
                    self.seen.append(message)
        except httpx.TransportError:
            pass

    @property
    def kinds(self) -> list[tuple[str, Any]]:
        return [message.message for message in self.seen]


@pytest.fixture
def tiny_document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The tiny config file, with nights of one model that is solved in a moment."""
    tiny_document["datasets"]["tiny"] |= {"models": ["linear"], "training": {"baselines": ["seasonal_naive"]}}
    return tiny_document


@pytest.fixture
def client(home: Installation, serve: Callable[[Installation], httpx.Client]) -> httpx.Client:
    return serve(home)


@pytest.fixture
def follow(client: httpx.Client, wait_until: Callable[..., None]) -> Callable[..., Follower]:
    """Follow a stream of the service; the stream has begun when this returns."""

    def start(path: str, **headers: str) -> Follower:
        follower = Follower(f"{client.base_url}{path}", headers)
        wait_until(lambda: follower.status is not None)
        return follower

    return start


def queued(home: Installation, definition: Job = REFRESH, name: str = "asked") -> int:
    date = Due(logical_date=f"{name}-{home.ledger.events.last()}", at=NOW, cause=Cause.HAND)
    return home.ledger.runs.claim(name, definition, [date], NOW)[0]


def taken(home: Installation) -> Run:
    run = home.ledger.runs.take("elsewhere", NOW, trainings=1, others=9)
    assert run is not None
    return run


# --- everything that happens ------------------------------------------------------------------------------------------


def test_events_are_streamed_as_they_happen(
    home: Installation,
    follow: Callable[..., Follower],
    crowned: Callable[..., Manifest],
    wait_until: Callable[..., None],
) -> None:
    follower = follow("/v1/events")
    issuance, _ = issue(home.dataset("tiny"))
    crowned(home, "repeat_last-2")
    queued(home)
    run = taken(home)
    home.ledger.runs.beat(run, NOW, 0.5, "half way")
    home.ledger.runs.finish(run, "succeeded", NOW, "done")
    wait_until(lambda: len(follower.seen) == 5)
    assert [state.kind for state in follower.seen] == ["forecast", "promotion", "run", "run", "run"]
    assert [state for _, state in follower.kinds[2:]] == ["queued", "running", "succeeded"]
    first = follower.seen[0].data
    assert (first["dataset"], first["run_id"]) == ("tiny", None)
    assert first["details"] == {"forecast_id": issuance.forecast_id, "model_version": "repeat_last-1"}
    assert follower.seen[-1].data["details"]["reason"] == "done"


def test_events_are_filtered_by_kind_and_data_set(
    home: Installation, follow: Callable[..., Follower], wait_until: Callable[..., None]
) -> None:
    progress, forecasts = follow("/v1/events?kinds=progress,run"), follow("/v1/events?kinds=forecast&dataset=tiny")
    queued(home)
    home.ledger.runs.beat(taken(home), NOW, 0.5, "half way")
    issue(home.dataset("tiny"))
    wait_until(lambda: len(progress.seen) == 3 and forecasts.seen)
    assert [message.kind for message in progress.seen] == ["run", "run", "progress"]
    assert [message.kind for message in forecasts.seen] == ["forecast"]


def test_a_client_that_reconnects_receives_the_events_that_it_missed(
    home: Installation, follow: Callable[..., Follower], wait_until: Callable[..., None]
) -> None:
    for _ in range(4):
        queued(home)
    behind = follow("/v1/events", **{"Last-Event-ID": str(home.ledger.events.last() - 3)})
    also = follow(f"/v1/events?after={home.ledger.events.last() - 2}")
    queued(home)
    wait_until(lambda: len(behind.seen) == 4 and len(also.seen) == 3)
    numbers = [int(message.number) for message in behind.seen]
    assert numbers == sorted(set(numbers))
    assert [message.number for message in also.seen] == [message.number for message in behind.seen[1:]]


def test_a_number_from_another_ledger_does_not_silence_a_stream(
    home: Installation, follow: Callable[..., Follower], wait_until: Callable[..., None]
) -> None:
    lost = follow("/v1/events", **{"Last-Event-ID": "999999"})
    queued(home)
    wait_until(lambda: lost.kinds == [("run", "queued")])


def test_no_event_is_lost_or_sent_twice_at_any_rate(
    home: Installation,
    follow: Callable[..., Follower],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Feed, "KEPT", 20)  # so that followers fall back to the ledger
    followers = [follow("/v1/events", **{"Last-Event-ID": "0"}) for _ in range(5)]
    first = home.ledger.events.last()
    for number in range(600):
        queued(home, name=f"job-{number}")
        if number % 200 == 0:
            followers.append(follow("/v1/events", **{"Last-Event-ID": "0"}))
    every = [str(event.sequence) for event in home.ledger.events.after(kinds=["run", "promotion"], limit=10_000)]
    assert len(every) >= 600
    wait_until(lambda: all(follower.seen and follower.seen[-1].number == every[-1] for follower in followers))
    assert all([message.number for message in follower.seen] == every for follower in followers)
    assert first < int(every[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/v1/events?kinds=forcast", {}, 422, "kinds.unknown"),
        ("/v1/events?dataset=tinny", {}, 404, "dataset.unknown"),
        ("/v1/events?kind=run", {}, 422, "parameter.unknown"),
        ("/v1/events?after=-1", {}, 422, "after.out_of_range"),
        ("/v1/events", {"Last-Event-ID": "last"}, 422, "last_event_id.malformed"),
        ("/v1/events", {"Last-Event-ID": "9" * 19}, 422, "last_event_id.malformed"),
        ("/v1/events", {"Accept": "application/json"}, 406, "format.not_acceptable"),
        ("/v1/runs/1/events", {"Last-Event-ID": "12"}, 422, "last_event_id.malformed"),
        ("/v1/runs/1/events", {"Accept": "text/html"}, 406, "format.not_acceptable"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(
    client: httpx.Client, home: Installation, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    queued(home)
    answer = client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


# --- clients that are many, gone, or only ask for the headers ---------------------------------------------------------


def test_too_many_followers_are_refused_and_places_come_back(
    home: Installation, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feed, "MOST_FOLLOWERS", 3)
    one = server(home)
    feed = one.config.app.state.service.feed
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/events"
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx.Client(trust_env=False, timeout=30) as client:
        for _ in range(3):  # places are given back: three times as many as there are
            streams = [client.stream("GET", url) for _ in range(3)]
            answers = [stream.__enter__() for stream in streams]
            assert [answer.status_code for answer in answers] == [200] * 3
            wait_until(lambda: feed.followers == 3)
            refused = client.get(url)
            assert (refused.status_code, refused.json()["code"]) == (503, "events.too_many")
            for stream in streams:
                stream.__exit__(None, None, None)
            wait_until(lambda: feed.followers == 0)
        # Asked only for headers, a stream ends: the same connection takes the next request.
        assert [client.head(url).headers["content-type"] for _ in range(5)] == ["text/event-stream; charset=utf-8"] * 5
        assert feed.followers == 0
        assert client.get(url.replace("v1/events", "healthz")).status_code == 200
    one.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_streams_do_not_hold_up_the_end_of_the_service(
    home: Installation, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    queued(home)
    one = server(home)
    feed = one.config.app.state.service.feed
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
    thread.start()
    followers = [Follower(f"{url}/events"), Follower(f"{url}/runs/1/events")]
    with socket.create_connection(listener.getsockname()) as silent:  # asks, and never reads
        silent.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: feed.followers == 3 and len(followers[1].seen) == 1)
        one.should_exit = True
        thread.join(timeout=4)  # less than what running requests are given
        assert not thread.is_alive()
    for follower in followers:
        follower.thread.join(timeout=5)
        assert not follower.thread.is_alive()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_does_not_read_is_let_go(
    home: Installation, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.events.streams._SEND_SECONDS", 0.5)
    queued(home)
    home.home.run_log(1).write_bytes((b"x" * 1000 + b"\n") * 20_000)  # more than all buffers on the way take
    one = server(home)
    feed = one.config.app.state.service.feed
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
    thread.start()
    with socket.create_connection(listener.getsockname()) as silent:
        silent.sendall(b"GET /v1/runs/1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: feed.followers == 1)
        wait_until(lambda: feed.followers == 0)
    one.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


# --- one run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_followed_over_rest_from_its_start_to_its_end(
    home: Installation, follow: Callable[..., Follower], client: httpx.Client, working: Callable[[], object]
) -> None:
    JobBook(home).add("refresh", REFRESH)
    client.post("/v1/jobs/refresh/runs")
    follower = follow("/v1/runs/1/events")
    working()
    follower.thread.join(timeout=90)
    assert not follower.thread.is_alive()  # the stream ended by itself
    states = [state for kind, state in follower.kinds if kind == "run"]
    assert states == ["queued", "running", "succeeded"]
    assert follower.seen[-1].number.endswith("-end")
    lines = lines_of(follower.seen)
    assert lines == client.get("/v1/runs/1/log").text.splitlines()
    assert lines[-1].startswith("run 1 succeeded: 0 new and 0 changed rows; forecast ")
    done = client.get("/v1/runs/1/events", headers={"Last-Event-ID": follower.seen[-1].number})
    assert (done.status_code, done.content) == (204, b"")


@pytest.mark.slow
def test_a_running_run_is_cancelled_over_rest(
    home: Installation,
    follow: Callable[..., Follower],
    client: httpx.Client,
    working: Callable[[], object],
    wait_until: Callable[..., None],
) -> None:
    JobBook(home).add("refresh", REFRESH)
    client.post("/v1/jobs/refresh/runs")
    follower = follow("/v1/runs/1/events")
    (lock,) = home.home.locks.glob("*observations*")
    with FileLock(lock):  # the ingestion waits for its turn
        working()
        wait_until(lambda: ("progress", "progress") in follower.kinds, 60)
        asked = client.delete("/v1/runs/1")
        assert (asked.status_code, asked.json()["state"]) == (202, "running")
        assert asked.json()["cancel_asked_at"] is not None
        follower.thread.join(timeout=60)
    assert follower.kinds[-1] == ("run", "cancelled")
    assert client.get("/v1/runs/1").json()["attempts"][0]["outcome"] == "cancelled"
    assert client.delete("/v1/runs/1").json()["code"] == "run.ended"


def test_a_run_that_is_coalesced_ends_its_stream(home: Installation, follow: Callable[..., Follower]) -> None:
    for date in ("a", "b"):
        home.ledger.runs.claim("hourly", REFRESH, [Due(logical_date=date, at=NOW, cause=Cause.CRON)], NOW)
    follower = follow("/v1/runs/1/events")
    follower.thread.join(timeout=30)
    assert follower.kinds == [("run", "queued"), ("run", "coalesced")]
    assert follower.seen[-1].data["details"]["reason"] == "coalesced into run 2"
    assert follower.seen[-1].number.endswith("-end")


def test_lines_of_a_log_are_sent_whole_and_once(
    home: Installation, follow: Callable[..., Follower], wait_until: Callable[..., None]
) -> None:
    queued(home)
    run = taken(home)
    follower = follow("/v1/runs/1/events")
    with home.home.run_log(1).open("ab", buffering=0) as log:
        log.write("a first line\nhalf a line, 5 µ".encode()[:-1])
        wait_until(lambda: ("log", ["a first line"]) in follower.kinds)
        log.write("µ".encode()[1:] + b"m\n" + b"long " * 30_000 + b"\nand one that does not end")
        home.ledger.runs.finish(run, "succeeded", NOW, "done")
    follower.thread.join(timeout=30)
    text = "\n".join(lines_of(follower.seen))
    assert text.startswith("a first line\nhalf a line, 5 µm\nlong long")
    assert text.replace("\n", "") == home.home.run_log(1).read_text(encoding="utf-8").replace("\n", "")
    # Whoever comes back in the middle gets the rest.
    for place, message in enumerate(follower.seen[:-1]):
        again = follow("/v1/runs/1/events", **{"Last-Event-ID": message.number})
        again.thread.join(timeout=30)
        assert lines_of(again.seen) == lines_of(follower.seen[place + 1 :])
        assert again.seen[-1] == follower.seen[-1]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_run_outlives_the_service_and_a_client_that_comes_back_misses_nothing(
    home: Installation, working: Callable[[], object], wait_until: Callable[..., None]
) -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/runs/1/events"

    def serving() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVE, home.home.path, str(port)],
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    def followed(process: subprocess.Popen[str], **headers: str) -> Follower:
        def begins() -> bool:
            assert process.poll() is None
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(begins)
        return Follower(url, headers)

    JobBook(home).add("nightly", NIGHT)
    JobBook(home).run_now("nightly")
    working()
    seen: list[Message] = []
    for stop in (signal.SIGTERM, signal.SIGKILL, None):
        with serving() as process:
            headers = {"Last-Event-ID": seen[-1].number} if seen else {}
            follower = followed(process, **headers)
            if stop is None:
                follower.thread.join(timeout=200)
                process.terminate()
            else:
                kinds = {"run"} if stop == signal.SIGTERM else {"log", "progress"}
                wait_until(lambda f=follower, k=kinds: any(one.kind in k for one in f.seen), 120)
                process.send_signal(stop)
                follower.thread.join(timeout=20)
            process.communicate(timeout=20)
        seen += follower.seen
    assert [state for kind, state in (one.message for one in seen) if kind == "run"][:2] == [
        "queued",
        "running",
    ]
    assert seen[-1].message[0] == "run"
    assert seen[-1].number.endswith("-end")
    assert (home.ledger.runs.get(1).state, home.ledger.runs.get(1).attempt) == (
        "succeeded",
        1,
    )  # one attempt, undisturbed
    assert lines_of(seen) == home.home.run_log(1).read_text(encoding="utf-8").splitlines()
    documents = [event.document for event in home.ledger.events.after(run_id=1)]
    assert [one.data["details"] for one in seen if one.kind != "log"] == documents


# --- the feed itself --------------------------------------------------------------------------------------------------


def test_the_ledger_is_not_polled_without_a_client(
    home: Installation, client: httpx.Client, follow: Callable[..., Follower], wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    looks = []
    events = type(home.ledger.events).after
    monkeypatch.setattr(type(home.ledger.events), "after", lambda *a, **k: (looks.append(a), events(*a, **k))[1])
    followers = [follow("/v1/events") for _ in range(10)]
    before = len(looks)
    queued(home)
    wait_until(lambda: all(follower.seen for follower in followers))
    assert len(looks) - before <= 4  # one look for all ten
    assert Wanted(kinds=frozenset({"run"})).takes(home.ledger.events.after()[-1])
    del client
