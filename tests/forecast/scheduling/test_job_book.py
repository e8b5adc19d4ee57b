from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forecast.config.jobs import Job, JobStep, Weight
from forecast.errors import ConfigError, ConflictError, ForecastError, NotFoundError
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook

HOUR = timedelta(hours=1)


def job(**fields: Any) -> Job:
    return Job.model_validate({"dataset": "tiny", "steps": ["ingest"]} | fields)


@pytest.fixture
def installation(make_home: Callable[..., Installation], tiny_document: dict[str, Any]) -> Installation:
    tiny_document["jobs"] = {"nightly": {"dataset": "tiny", "steps": ["ingest", "forecast"], "cron": "30 2 * * *"}}
    return make_home(document=tiny_document)


@pytest.fixture
def book(installation: Installation) -> JobBook:
    return JobBook(installation)


def test_jobs_of_the_file_and_of_the_ledger_stand_side_by_side(book: JobBook) -> None:
    book.add("hourly", job(cron="0 * * * *"))
    assert {name: known.origin for name, known in book.jobs().items()} == {"nightly": "job_file", "hourly": "ledger"}
    assert book.job("hourly").definition == job(cron="0 * * * *")


def test_a_name_is_given_once(book: JobBook) -> None:
    book.add("hourly", job())
    for name in ("hourly", "nightly"):
        with pytest.raises(ConflictError) as caught:
            book.add(name, job())
        assert caught.value.code == "job.exists"


def test_a_job_of_the_config_file_is_changed_there(book: JobBook) -> None:
    for change in (lambda: book.change("nightly", job()), lambda: book.remove("nightly")):
        with pytest.raises(ConflictError) as caught:
            change()
        assert caught.value.code == "job.in_job_file"


def test_a_job_that_came_into_the_file_later_wins_over_the_ledgers(
    book: JobBook, make_home: Callable[..., Installation], tiny_document: dict[str, Any]
) -> None:
    book.add("hourly", job(retries=9))
    tiny_document["jobs"]["hourly"] = {"dataset": "tiny", "steps": ["maintain"]}
    assert JobBook(make_home(document=tiny_document)).job("hourly").definition == job(steps=["maintain"])


def test_a_job_can_be_changed_and_removed_and_what_waits_of_it_is_cancelled(
    book: JobBook, installation: Installation
) -> None:
    book.add("hourly", job(cron="0 * * * *"))
    since = book.job("hourly").since
    assert book.change("hourly", job(cron="0 * * * *", retries=3)).definition.retries == 3
    assert book.job("hourly").since == since  # its dates are the same
    run_id = book.run_now("hourly")
    book.remove("hourly")
    assert "hourly" not in book.jobs()
    assert installation.ledger.runs.get(run_id).state == "cancelled"


def test_an_unknown_job_is_rejected_with_the_nearest_name(book: JobBook) -> None:
    with pytest.raises(NotFoundError, match='did you mean "nightly"') as caught:
        book.run_now("nightley")
    assert caught.value.code == "job.unknown"


def test_a_job_needs_a_data_set_that_there_is(book: JobBook) -> None:
    with pytest.raises(ConfigError, match='did you mean "tiny"') as caught:
        book.add("hourly", job(dataset="tinny"))
    assert caught.value.code == "job.no_data_set"


def test_a_job_of_the_file_can_be_paused_too(book: JobBook) -> None:
    assert book.following(book.job("nightly")) is not None
    assert book.pause("nightly", paused=True).paused
    assert book.following(book.job("nightly")) is None
    assert not book.pause("nightly", paused=False).paused


def test_each_call_for_a_run_gets_one(book: JobBook, installation: Installation) -> None:
    assert len({book.run_now("nightly") for _ in range(3)}) == 3
    assert [run.cause for run in installation.ledger.runs.queue()] == ["hand"] * 3


def test_a_back_fill_runs_the_dates_that_never_ran_each_once_in_order(
    book: JobBook, installation: Installation
) -> None:
    last = datetime.now(UTC).replace(hour=2, minute=30, second=0, microsecond=0)
    last -= timedelta(days=1)
    assert len(book.backfill("nightly", last - timedelta(days=1), last)) == 2
    assert len(book.backfill("nightly", last - timedelta(days=3), last)) == 2
    dates = [run.logical_date for run in installation.ledger.runs.queue()]
    assert dates == [f"{last - timedelta(days=n):%Y-%m-%dT02:30}" for n in (1, 0, 3, 2)]
    assert book.backfill("nightly", last - timedelta(days=3), last) == []


@pytest.mark.parametrize(
    ("first", "last", "code"),
    [(2, 3, "job.range"), (2, -1, "job.range"), (24 * 365 * 40, 0, "job.range")],
    ids=["turned round", "into the future", "too long"],
)
def test_a_range_that_cannot_be_meant_is_refused(book: JobBook, first: int, last: int, code: str) -> None:
    now = datetime.now(UTC)
    with pytest.raises(ConfigError) as caught:
        book.backfill("nightly", now - first * HOUR, now - last * HOUR)
    assert caught.value.code == code


def test_a_job_without_dates_has_nothing_to_fill(book: JobBook) -> None:
    book.add("follow", job(steps=["forecast"], on=["data"]))
    with pytest.raises(ConfigError) as caught:
        book.backfill("follow", datetime.now(UTC) - HOUR, datetime.now(UTC))
    assert caught.value.code == "job.no_cron"


@pytest.mark.parametrize(
    ("steps", "weight"),
    [(["ingest", "forecast"], Weight.LIGHT), (["ingest", "retrain"], Weight.TRAINING), (["maintain"], Weight.LIGHT)],
)
def test_what_trains_weighs_more(steps: list[str], weight: Weight) -> None:
    assert job(steps=steps).weight == weight


def test_the_wait_before_a_retry_doubles_up_to_six_hours() -> None:
    waits = [job(backoff="1m").wait_after(failures) for failures in (1, 2, 3, 20)]
    assert waits == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4), timedelta(hours=6)]


@pytest.mark.parametrize(("text", "megabytes"), [("", None), ("500MB", 500.0), ("8GB", 8000.0)])
def test_memory_limits_are_converted_to_megabytes(text: str, megabytes: float | None) -> None:
    assert job(memory_limit=text).memory_mb == megabytes


def test_a_way_back_is_queued_for_a_worker(tiny_home: Installation, crown: Callable[..., Any]) -> None:
    book = JobBook(tiny_home)
    with pytest.raises(NotFoundError) as caught:
        book.roll_back("tiny")
    assert caught.value.code == "promotion.no_earlier"
    crown(tiny_home, "repeat_last-2")
    for version, code in (("repeat_last-2", "promotion.is_champion"), ("repeat_last-3", "model.unknown")):
        with pytest.raises(ForecastError) as refused:
            book.roll_back("tiny", version)
        assert refused.value.code == code
    run = tiny_home.ledger.runs.get(book.roll_back("tiny"))
    assert (run.job, run.definition.steps) == ("tiny.rollback", (JobStep.ROLLBACK, JobStep.FORECAST))
    assert tiny_home.ledger.runs.get(book.roll_back("tiny", "repeat_last-1")).definition.version == "repeat_last-1"
