from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forecast.config.alerts import AlertKind
from forecast.config.jobs import Cause, Due, Job
from forecast.ledger import Ledger
from forecast.monitoring.alerts import AlertFinding

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD = AlertFinding(AlertKind.STALE, "data", "nothing was observed for 7.0 h", 25200.0, 21600.0)
DRIFT = AlertFinding(AlertKind.DRIFT, "load", "load is spread otherwise", 0.4, 0.25)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


def test_an_alert_is_raised_once_and_resolved_once(ledger: Ledger) -> None:
    (raised,), resolved = ledger.alerts.update("tiny", [OLD], NOW)
    assert (raised.kind, raised.subject, raised.message, raised.value, raised.limit) == (
        "stale", "data", OLD.message, 25200.0, 21600.0,
    )  # fmt: skip
    assert (raised.raised_at, raised.is_open, resolved) == (NOW, True, [])
    again = AlertFinding(AlertKind.STALE, "data", "nothing was observed for 8.0 h", 28800.0, 21600.0)
    assert ledger.alerts.update("tiny", [again], NOW + HOUR) == ([], [])
    assert ledger.alerts.find("tiny", open_only=True) == [raised]
    fresh, (over,) = ledger.alerts.update("tiny", [], NOW + 2 * HOUR)
    assert (fresh, over.sequence, over.resolved_at) == ([], raised.sequence, NOW + 2 * HOUR)
    assert ledger.alerts.update("tiny", [], NOW + 3 * HOUR) == ([], [])
    assert ledger.alerts.find("tiny", open_only=True) == []


def test_what_comes_back_is_a_new_alert(ledger: Ledger) -> None:
    (first,), _ = ledger.alerts.update("tiny", [DRIFT], NOW)
    ledger.alerts.update("tiny", [], NOW + HOUR)
    (second,), _ = ledger.alerts.update("tiny", [DRIFT], NOW + 2 * HOUR)
    assert second.sequence > first.sequence
    assert [alert.sequence for alert in ledger.alerts.find("tiny")] == [second.sequence, first.sequence]


def test_each_change_is_an_event(ledger: Ledger) -> None:
    ledger.alerts.update("tiny", [OLD, DRIFT], NOW)
    ledger.alerts.update("tiny", [DRIFT], NOW + HOUR)
    message = [(event.document["state"], event.document["kind"]) for event in ledger.events.after(kinds=["alert"])]
    assert message == [("raised", "stale"), ("raised", "drift"), ("resolved", "stale")]


def test_data_sets_do_not_know_of_each_other(ledger: Ledger) -> None:
    ledger.alerts.update("tiny", [OLD], NOW)
    ledger.alerts.update("other", [], NOW)
    assert len(ledger.alerts.find("tiny", open_only=True)) == 1
    assert ledger.alerts.find("other") == []
    assert len(ledger.alerts.find()) == 1


def test_several_that_find_the_same_at_once_raise_it_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ledger.alerts.update("tiny", [OLD, DRIFT], NOW)[0], range(8)))
    assert sorted(alert.kind for raised in results for alert in raised) == ["drift", "stale"]
    assert len(ledger.alerts.find("tiny")) == 2


def test_a_webhook_is_owed_what_it_was_not_told(ledger: Ledger) -> None:
    ledger.alerts.update("tiny", [OLD, DRIFT], NOW)
    first, second = ledger.alerts.unsent("tiny", NOW)
    ledger.alerts.mark_sent(first, NOW)
    assert ledger.alerts.unsent("tiny", NOW) == [second]
    ledger.alerts.update("tiny", [], NOW + HOUR)
    owed = ledger.alerts.unsent("tiny", NOW + HOUR)
    assert [(alert.sequence, alert.is_open) for alert in owed] == [(first.sequence, False), (second.sequence, False)]
    for alert in owed:
        ledger.alerts.mark_sent(alert, NOW + HOUR)
    assert ledger.alerts.unsent("tiny", NOW + HOUR) == []


def test_what_happened_long_ago_is_no_news(ledger: Ledger) -> None:
    ledger.alerts.update("tiny", [OLD], NOW)
    assert ledger.alerts.unsent("tiny", NOW + timedelta(days=8)) == []


def test_a_job_that_failed_for_good_is_told_until_it_succeeds(ledger: Ledger) -> None:
    job = Job(dataset="tiny", steps=("ingest",), retries=0)  # type: ignore[arg-type]

    def run(date: str, outcome: str) -> None:
        ledger.runs.claim("nightly", job, [Due(logical_date=date, at=NOW, cause=Cause.HAND)], NOW)
        taken = ledger.runs.take("here", NOW, trainings=1, others=1)
        assert taken is not None
        ledger.runs.finish(taken, outcome, NOW, "no space")  # type: ignore[arg-type]

    assert ledger.runs.failed_jobs("tiny") == {}
    run("1", "failed")
    assert ledger.runs.failed_jobs("tiny") == {"nightly": "no space"}
    assert ledger.runs.failed_jobs("other") == {}
    run("2", "succeeded")
    assert ledger.runs.failed_jobs("tiny") == {}
