import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from forecast.config.jobs import Cause, Due, Job, Weight
from forecast.errors import ConflictError, NotFoundError
from forecast.ledger import Ledger
from forecast.ledger.champions import Champion
from forecast.ledger.run import Run

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as opened:
        yield opened


def job(**fields: Any) -> Job:
    return Job.model_validate({"dataset": "tiny", "steps": ["ingest"]} | fields)


def dates(*days: int, cause: Cause = Cause.CRON) -> list[Due]:
    return [Due(logical_date=f"2024-05-{day:02}T02:30", at=NOW + day * DAY, cause=cause) for day in days]


def claim(ledger: Ledger, *days: int, name: str = "nightly", cause: Cause = Cause.CRON, **fields: Any) -> list[int]:
    return ledger.runs.claim(name, job(**fields), dates(*days or (1,), cause=cause), NOW)


def take(ledger: Ledger, host: str = "here", *, trainings: int = 1, others: int = 5, at: datetime = NOW) -> Run | None:
    return ledger.runs.take(host, at, trainings=trainings, others=others)


def taken(ledger: Ledger, **how: Any) -> Run:
    run = take(ledger, **how)
    assert run is not None
    return run


def claim_in_a_process(url: str) -> list[int]:
    with Ledger.open(url) as opened:
        return claim(opened)


def at_once(work: Callable[[], Any], threads: int = 8) -> list[Any]:
    barrier = threading.Barrier(threads)

    def begin(_: int) -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


# --- claiming ---------------------------------------------------------------------------------------------------------


def test_a_date_is_claimed_once(ledger: Ledger) -> None:
    (run_id,) = claim(ledger)
    assert claim(ledger) == []
    assert [run.run_id for run in ledger.runs.find()] == [run_id]
    assert ledger.runs.is_claimed("nightly", "2024-05-01T02:30")
    assert not ledger.runs.is_claimed("other", "2024-05-01T02:30")


def test_of_eight_threads_one_claims_a_date(ledger: Ledger) -> None:
    assert sorted(map(len, at_once(lambda: claim(ledger)))) == [0] * 7 + [1]


def test_of_four_processes_one_claims_a_date(ledger: Ledger, url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        claimed = list(pool.map(claim_in_a_process, [url] * 4))
    assert sorted(map(len, claimed)) == [0, 0, 0, 1]
    assert len(ledger.runs.find()) == 1


def test_of_dates_that_were_missed_the_latest_is_queued_and_the_others_end_in_it(ledger: Ledger) -> None:
    (queued,) = claim(ledger, 1, 2, 3)
    states = {run.logical_date[8:10]: (run.state, run.coalesced_into) for run in ledger.runs.find()}
    assert states == {"01": ("coalesced", queued), "02": ("coalesced", queued), "03": ("queued", None)}


def test_a_date_that_still_waits_is_coalesced_into_the_next_one(ledger: Ledger) -> None:
    (first,) = claim(ledger, 1)
    (second,) = claim(ledger, 2)
    assert (ledger.runs.get(first).state, ledger.runs.get(first).coalesced_into) == ("coalesced", second)


def test_a_date_that_is_being_run_is_not_coalesced(ledger: Ledger) -> None:
    (first,) = claim(ledger, 1)
    taken(ledger)
    claim(ledger, 2)
    assert ledger.runs.get(first).state == "running"


def test_a_job_that_wants_each_date_gets_each_in_order(ledger: Ledger) -> None:
    queued = claim(ledger, 1, 2, 3, catch_up="each")
    assert [run.logical_date for run in ledger.runs.queue()] == [date.logical_date for date in dates(1, 2, 3)]
    assert queued == [run.run_id for run in ledger.runs.queue()]


def test_dates_that_somebody_asked_for_are_not_coalesced(ledger: Ledger) -> None:
    assert len(claim(ledger, 1, 2, cause=Cause.BACKFILL)) == 2
    claim(ledger, 3)
    assert [run.state for run in ledger.runs.find()] == ["queued"] * 3


def test_a_thousand_dates_are_claimed_at_once(ledger: Ledger) -> None:
    many = [Due(logical_date=str(n), at=NOW + n * MINUTE, cause=Cause.CRON) for n in range(1200)]
    assert len(ledger.runs.claim("often", job(), many, NOW)) == 1
    assert len(ledger.runs.find(states=("coalesced",), limit=5000)) == 1199


def test_the_last_due_time_is_of_the_causes_asked_for(ledger: Ledger) -> None:
    claim(ledger, 1, 3)
    claim(ledger, 9, cause=Cause.HAND)
    assert ledger.runs.last_due("nightly") == NOW + 9 * DAY
    assert ledger.runs.last_due("nightly", Cause.CRON) == NOW + 3 * DAY
    assert ledger.runs.last_due("nightly", Cause.CRON, until=NOW + 2 * DAY) == NOW + DAY
    assert ledger.runs.last_due("other") is None


# --- taking -----------------------------------------------------------------------------------------------------------


def test_a_run_is_taken_by_one(ledger: Ledger) -> None:
    claim(ledger)
    found = [run for run in at_once(lambda: take(ledger)) if run is not None]
    assert len(found) == 1
    assert (found[0].state, found[0].attempt, found[0].host) == ("running", 1, "here")


def test_runs_are_taken_in_the_order_of_the_queue(ledger: Ledger) -> None:
    ids = [claim(ledger, name=name)[0] for name in ("a", "b", "c")]
    assert [taken(ledger).run_id for _ in ids] == ids
    assert take(ledger) is None


def test_of_one_job_one_run_at_a_time_is_running(ledger: Ledger) -> None:
    claim(ledger, 1, 2, catch_up="each")
    first = taken(ledger)
    assert take(ledger, "elsewhere") is None
    ledger.runs.finish(first, "succeeded", NOW, "done")
    assert taken(ledger).logical_date == "2024-05-02T02:30"


def test_a_machine_has_room_for_so_many_trainings_and_others(ledger: Ledger) -> None:
    for name in ("a", "b"):
        claim(ledger, name=f"train-{name}", steps=["retrain"])
        claim(ledger, name=f"light-{name}")
    kinds = [taken(ledger, others=1).kind for _ in range(2)]
    assert sorted(kinds) == sorted([Weight.TRAINING, Weight.LIGHT])
    assert take(ledger, others=1) is None
    assert taken(ledger, host="elsewhere", others=0).kind == Weight.TRAINING


def test_a_machine_without_room_for_trainings_takes_none(ledger: Ledger) -> None:
    claim(ledger, steps=["tune"], model="linear")
    assert take(ledger, trainings=0) is None


def test_a_taken_run_tells_its_job_as_it_was_claimed(ledger: Ledger) -> None:
    claim(ledger, retries=7)
    claim(ledger, 2, retries=1)
    assert taken(ledger).definition.retries == 1  # the first was coalesced
    assert ledger.runs.find()[1].definition.retries == 7


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_run_ends_once(ledger: Ledger) -> None:
    claim(ledger)
    run = taken(ledger)
    assert ledger.runs.finish(run, "succeeded", NOW, "12 new rows") == "succeeded"
    assert ledger.runs.finish(run, "abandoned", NOW, "died", retry=True) is None
    ended = ledger.runs.get(run.run_id)
    assert (ended.state, ended.reason, ended.ended_at, ended.has_ended) == ("succeeded", "12 new rows", NOW, True)
    assert claim(ledger) == []


def test_an_abandoned_run_is_tried_again_after_its_back_off_and_then_fails_for_good(ledger: Ledger) -> None:
    claim(ledger, retries=2, backoff="60s")
    waits = []
    now = NOW
    for _ in range(2):
        run = taken(ledger, at=now)
        assert ledger.runs.finish(run, "abandoned", now, "the worker died", retry=True) == "queued"
        not_before = ledger.runs.get(run.run_id).not_before
        assert not_before is not None
        assert take(ledger, at=not_before - MINUTE / 60) is None
        waits.append(not_before - now)
        now = not_before
    assert waits == [MINUTE, 2 * MINUTE]
    last = taken(ledger, at=now)
    assert ledger.runs.finish(last, "abandoned", now, "the worker died", retry=True) == "failed"
    assert [(one.number, one.outcome) for one in ledger.runs.attempts(last.run_id)] == [
        (n, "abandoned") for n in (1, 2, 3)
    ]


def test_a_failure_that_would_only_repeat_itself_is_not_tried_again(ledger: Ledger) -> None:
    claim(ledger)
    assert ledger.runs.finish(taken(ledger), "failed", NOW, "no such column") == "failed"


def test_a_run_that_is_handed_back_loses_no_try(ledger: Ledger) -> None:
    claim(ledger, retries=0)
    for _ in range(3):
        assert ledger.runs.finish(taken(ledger), "handed_back", NOW, "the host was stopped", retry=True) == "queued"
    assert ledger.runs.get(taken(ledger).run_id).failures == 0


def test_a_waiting_run_is_cancelled_at_once_and_a_running_one_is_asked_to_stop(ledger: Ledger) -> None:
    (waiting,) = claim(ledger, name="a")
    assert ledger.runs.cancel(waiting, NOW).state == "cancelled"
    (running,) = claim(ledger, name="b")
    run = taken(ledger)
    assert ledger.runs.cancel(running, NOW).state == "running"
    assert ledger.runs.get(running).cancel_asked_at == NOW
    # However the worker ends now, nobody wants it tried again.
    assert ledger.runs.finish(run, "abandoned", NOW, "died", retry=True) == "cancelled"
    with pytest.raises(ConflictError) as caught:
        ledger.runs.cancel(running, NOW)
    assert caught.value.code == "run.ended"
    with pytest.raises(NotFoundError):
        ledger.runs.cancel(999, NOW)


# --- ownership --------------------------------------------------------------------------------------------------------


def crown(ledger: Ledger, version: str) -> None:
    ledger.champions.promote(Champion("tiny", "linear", version, version, "d" * 64, NOW, "better"))


def test_a_worker_whose_run_was_given_up_can_neither_beat_nor_end_nor_promote(ledger: Ledger) -> None:
    claim(ledger, backoff="1s")
    late = taken(ledger)
    theirs = ledger.owned_by(late.run_id, late.attempt)
    crown(theirs, "v1")
    ledger.runs.finish(late, "abandoned", NOW, "silent", retry=True)
    again = taken(ledger, host="elsewhere", at=NOW + MINUTE)
    assert again.run_id == late.run_id
    assert not ledger.runs.beat(late, NOW)
    assert ledger.runs.beat(again, NOW)
    assert ledger.runs.finish(late, "succeeded", NOW, "late") is None
    with pytest.raises(ConflictError) as caught:
        crown(theirs, "v2")
    assert caught.value.code == "run.not_owned"
    crown(ledger.owned_by(again.run_id, again.attempt), "v3")
    assert [one.model_version for one in ledger.champions.history("tiny")] == ["v3", "v1"]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_runs_come_newest_first_and_can_be_filtered_and_paged(ledger: Ledger) -> None:
    ids = [claim(ledger, name=name)[0] for name in ("a", "b", "c")]
    assert [run.run_id for run in ledger.runs.find()] == ids[::-1]
    assert [run.run_id for run in ledger.runs.find(job="b")] == [ids[1]]
    assert [run.run_id for run in ledger.runs.find(before=ids[2], limit=1)] == [ids[1]]
    assert ledger.runs.find(dataset="other") == []
    assert ledger.runs.find(states=("failed",)) == []


def test_an_unknown_run_is_told(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError, match="no run 7"):
        ledger.runs.get(7)


def test_what_happens_is_told_in_order_and_from_where_one_left_off(ledger: Ledger) -> None:
    (run_id,) = claim(ledger)
    run = taken(ledger)
    ledger.runs.beat(run, NOW, 0.5, "ingest: rows.csv")
    ledger.runs.beat(run, NOW, 0.5, "ingest: rows.csv", tell=False)
    ledger.runs.finish(run, "succeeded", NOW, "done")
    message = ledger.events.after(run_id=run_id)
    assert [one.document.get("state", one.document.get("doing")) for one in message] == [
        "queued", "running", "ingest: rows.csv", "succeeded",
    ]  # fmt: skip
    assert ledger.events.after(message[1].sequence, run_id=run_id) == message[2:]
    assert [one.kind for one in ledger.events.after(kinds=("progress",))] == ["progress"]
    assert ledger.events.last() == message[-1].sequence
    assert ledger.events.forget(NOW + DAY) == 4


def test_a_promotion_and_a_verdict_are_told(ledger: Ledger) -> None:
    crown(ledger, "v1")
    (event,) = ledger.events.after()
    assert (event.kind, event.dataset, event.document["model_version"]) == ("promotion", "tiny", "v1")
