import io
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from rich.console import Console

from forecast.errors import DataError
from forecast.installation import Installation
from forecast.worker import work

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def claimed(tiny_home: Installation) -> int:
    run_id = tiny_home.ledger.claim("tiny/refresh", "tiny", "refresh", "2024-05-01T00:00", NOW)
    assert run_id is not None
    return run_id


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def executed(tiny_home: Installation, claimed: int, log: io.StringIO) -> Callable[[], bool]:
    return lambda: work(tiny_home, claimed, Console(file=log, width=500))


def test_a_refresh_ingests_and_issues(
    tiny_home: Installation, claimed: int, executed: Callable[[], bool], log: io.StringIO
) -> None:
    assert executed()
    issuance = tiny_home.ledger.issuance("tiny")
    assert issuance is not None
    run = tiny_home.ledger.run(claimed)
    assert run.state == "succeeded"
    assert run.reason == f"0 new and 0 changed rows; forecast {issuance.forecast_id} issued"
    assert str(run.reason) in log.getvalue()


def test_a_failure_is_told_with_its_code_in_the_ledger_and_in_the_log(
    tiny_home: Installation, claimed: int, executed: Callable[[], bool], log: io.StringIO
) -> None:
    (tiny_home.home.path / "rows.csv").unlink()
    assert not executed()
    run = tiny_home.ledger.run(claimed)
    assert run.state == "failed"
    assert str(run.reason).startswith("[source.not_found] ")
    assert "[source.not_found]" in log.getvalue()


@pytest.mark.parametrize("text", ['no column "[/bold]"', "file [/tmp/x] is broken", "[red]not red"])
def test_a_failure_is_logged_as_it_is_whatever_brackets_it_has(
    claimed: int, executed: Callable[[], bool], log: io.StringIO, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    del claimed

    def fail(*_: object) -> None:
        raise DataError("x.y", text)

    monkeypatch.setattr("forecast.worker.ingest", fail)
    assert not executed()
    assert text in log.getvalue()


def test_an_unexpected_failure_is_told_as_internal(
    tiny_home: Installation, claimed: int, executed: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("forecast.worker.issue", fail)
    assert not executed()
    assert tiny_home.ledger.run(claimed).reason == "[internal] ZeroDivisionError: division by zero"
