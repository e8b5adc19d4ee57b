import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from forecast.config.jobs import Cause, Due, Job
from forecast.errors import DataError, StorageError
from forecast.installation import Installation
from forecast.ledger.events import publish
from forecast.ledger.run import Run
from pipelines.worker import work

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def begun(tiny_home: Installation) -> Callable[..., Run]:
    """Claim and take a run, as a scheduler and a worker host do."""

    def make(*steps: str, **fields: Any) -> Run:
        job = Job.model_validate({"dataset": "tiny", "steps": steps or ["ingest", "forecast"]} | fields)
        tiny_home.ledger.runs.claim("refresh", job, [Due(logical_date="d", at=NOW, cause=Cause.CRON)], NOW)
        run = tiny_home.ledger.runs.take("here", NOW, trainings=1, others=1)
        assert run is not None
        return run

    return make


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def executed(tiny_home: Installation, log: io.StringIO) -> Callable[[Run], bool]:
    return lambda run: work(tiny_home, run.run_id, run.attempt, Console(file=log, width=500))


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_steps_run_in_order_and_are_reported(
    tiny_home: Installation, begun: Callable[..., Run], executed: Callable[[Run], bool], log: io.StringIO
) -> None:
    run = begun()
    assert executed(run)
    issuance = tiny_home.ledger.issuances.latest("tiny")
    assert issuance is not None
    ended = tiny_home.ledger.runs.get(run.run_id)
    assert ended.state == "succeeded"
    assert ended.reason == f"0 new and 0 changed rows; forecast {issuance.forecast_id} issued"
    assert ended.forecast_id == issuance.forecast_id
    assert str(ended.reason) in log.getvalue()


def test_maintenance_tells_what_it_did(
    tiny_home: Installation, begun: Callable[..., Run], executed: Callable[[Run], bool]
) -> None:
    with tiny_home.ledger._database.as_owner() as connection:
        publish(connection, "alert", "tiny", NOW - timedelta(days=365), {})
    run = begun("maintain")
    assert executed(run)
    assert "observations: " in str(tiny_home.ledger.runs.get(run.run_id).reason)
    assert tiny_home.ledger.events.after(kinds=("alert",)) == []  # too long ago


def test_a_failure_ends_the_chain_and_its_code_follows_the_finished_steps(
    tiny_home: Installation, begun: Callable[..., Run], executed: Callable[[Run], bool], log: io.StringIO
) -> None:
    (tiny_home.home.path / "rows.csv").unlink()
    run = begun("maintain", "ingest", "forecast")
    assert not executed(run)
    ended = tiny_home.ledger.runs.get(run.run_id)
    assert ended.state == "failed"
    assert "; [source.not_found] " in str(ended.reason)
    assert "[source.not_found]" in log.getvalue()
    assert tiny_home.ledger.issuances.latest("tiny") is None


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DataError("x.y", "the rows are wrong"), "failed"),
        (StorageError("x.y", "the store is away"), "queued"),
        (ZeroDivisionError("division by zero"), "queued"),
        (MemoryError("too large"), "queued"),
        (GeneratorExit(), "queued"),
    ],
)
def test_what_may_pass_is_tried_again_and_what_would_repeat_itself_is_not(
    tiny_home: Installation,
    begun: Callable[..., Run],
    executed: Callable[[Run], bool],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    state: str,
) -> None:
    monkeypatch.setattr("pipelines.worker.ingest", fail_with(error))
    run = begun()
    assert not executed(run)
    assert tiny_home.ledger.runs.get(run.run_id).state == state
    assert tiny_home.ledger.runs.attempts(run.run_id)[0].outcome == "failed"


def test_an_unexpected_failure_is_reported_as_internal(
    tiny_home: Installation, begun: Callable[..., Run], executed: Callable[[Run], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.worker.issue", fail_with(ZeroDivisionError("division by zero")))
    run = begun("forecast", retries=0)
    assert not executed(run)
    assert tiny_home.ledger.runs.get(run.run_id).reason == "[internal] ZeroDivisionError: division by zero"


@pytest.mark.parametrize("text", ['no column "[/bold]"', "file [/tmp/x] is broken", "[red]not red"])
def test_a_failure_is_logged_as_it_is_whatever_brackets_it_has(
    begun: Callable[..., Run],
    executed: Callable[[Run], bool],
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.setattr("pipelines.worker.ingest", fail_with(DataError("x.y", text)))
    assert not executed(begun())
    assert text in log.getvalue()


def test_a_worker_that_comes_too_late_does_nothing(
    tiny_home: Installation, begun: Callable[..., Run], executed: Callable[[Run], bool], log: io.StringIO
) -> None:
    run = begun(backoff="1s")
    tiny_home.ledger.runs.finish(run, "abandoned", NOW, "silent", retry=True)
    assert not executed(run)
    assert "nothing to do" in log.getvalue()
    assert tiny_home.ledger.issuances.latest("tiny") is None


def test_what_a_worker_does_not_own_any_more_it_does_not_issue(
    tiny_home: Installation,
    begun: Callable[..., Run],
    executed: Callable[[Run], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begun()

    def lose_it(*_: object) -> Any:
        tiny_home.ledger.runs.finish(run, "abandoned", NOW, "silent", retry=True)
        return ingested

    from pipelines import worker

    ingested = worker.ingest(tiny_home.dataset("tiny"))
    monkeypatch.setattr("pipelines.worker.ingest", lose_it)
    assert not executed(run)
    assert tiny_home.ledger.issuances.latest("tiny") is None
    assert tiny_home.ledger.runs.get(run.run_id).state == "queued"
