"""The commands about jobs and runs; those that do something run in processes of their own, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forecast.config.jobs import Cause, Due, Job
from forecast.installation import Installation
from forecast.scheduling.job_book import JobBook

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
NOW = datetime(2024, 5, 1, tzinfo=UTC)
REFRESH = Job.model_validate({"dataset": "tiny", "steps": ["ingest", "forecast"], "cron": "5 * * * *"})
MISTAKES: list[tuple[tuple[str, ...], int, tuple[str, ...]]] = [
    (("jobs", "show", "nigthly"), 3, ("no job of that name", 'did you mean "nightly"', "job.unknown")),
    (("jobs", "run", "nigthly"), 3, ('did you mean "nightly"', "job.unknown")),
    (("jobs", "pause", "nigthly"), 3, ('did you mean "nightly"', "job.unknown")),
    (("jobs", "add", "new", "--step", "ingest", "--cron", "61 * * * *"), 2, ("minute", "job.invalid")),
    (("jobs", "add", "new", "--step", "ingest", "--cron", "nightly"), 2, ("instead of five", "job.invalid")),
    (("jobs", "add", "new", "--step", "ingest", "--zone", "Europe/Brelin"), 2, ('did you mean "Europe/Berlin"',)),
    (("jobs", "add", "new", "--step", "ingest", "--set", "retrise=2"), 2, ("not a field", 'did you mean "retries"')),
    (("jobs", "add", "new", "--step", "ingest", "--set", "retries=two"), 2, ("retries: ", "integer", "job.invalid")),
    (("jobs", "add", "new", "--step", "ingest", "--set", "retries=-1"), 2, ("retries: ", "greater", "job.invalid")),
    (("jobs", "add", "new", "--step", "ingest", "--set", "retries"), 2, ("--set retries=2", "job.field")),
    (("jobs", "add", "new"), 2, ("steps: is missing", "--step ingest", "job.invalid")),
    (("jobs", "add", "New Job", "--step", "ingest"), 2, ("job name is invalid", "job.name")),
    (("jobs", "add", "new", "--step", "ingest", "--dataset", "tinny"), 3, ('did you mean "tiny"', "dataset.unknown")),
    (("jobs", "add", "nightly", "--step", "ingest"), 6, ("the config file has a job", "job.exists")),
    (("jobs", "add", "refresh", "--step", "ingest"), 6, ('there is a job "refresh"', "job.exists")),
    (("jobs", "change", "nightly", "--cron", "0 1 * * *"), 6, ("is defined in the config file", "job.in_job_file")),
    (("jobs", "remove", "nightly"), 6, ("is defined in the config file", "job.in_job_file")),
    (("jobs", "backfill", "nightly", "2024-01-02", "2024-01-01"), 2, ("the range is reversed", "job.range")),
    (("jobs", "backfill", "nightly", "0001-01-01", "2024-01-01"), 2, ("job.range",)),
    (("jobs", "backfill", "nightly", "1950-01-01", "2024-01-01"), 2, ("10,000 dates", "job.range")),
    (("jobs", "backfill", "asked", "2024-01-01", "2024-01-02"), 2, ("has no cron schedule", "job.no_cron")),
    (("runs", "show", "77"), 3, ("no run 77", "forecast runs list", "run.unknown")),
    (("runs", "log", "77"), 3, ("no run 77", "run.unknown")),
    (("runs", "log", "1"), 3, ("has no log on this machine", "run.no_log")),
    (("runs", "cancel", "77"), 3, ("no run 77", "run.unknown")),
    (("runs", "cancel", "1"), 6, ("cancelled already", "nothing to cancel", "run.ended")),
    (("runs", "list", "--job", "nigthly"), 3, ('did you mean "nightly"', "job.unknown")),
]
USAGE = [
    ("jobs", "add", "new", "--step", "retrian"),
    ("jobs", "add", "new", "--step", "ingest", "--on", "daat"),
    ("jobs", "backfill", "nightly", "yesterday", "today"),
    ("runs", "show", "last"),
    ("runs", "show", "9" * 30),
    ("runs", "list", "--limit", "0"),
]


@pytest.fixture
def tiny_document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The tiny config file with a job of its own."""
    tiny_document["jobs"] = {"nightly": {"dataset": "tiny", "steps": ["retrain", "forecast"], "cron": "30 2 * * *"}}
    return tiny_document


@pytest.fixture
def ask(command_line: CommandLine, tiny_home: Installation) -> Callable[..., Any]:
    """Run a command with ``--json`` and return what it answers."""

    def run(*arguments: str) -> Any:
        done = command_line(*arguments, "--home", tiny_home.home.path, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def say(command_line: CommandLine, tiny_home: Installation) -> Callable[..., str]:
    """Run a command and return what it prints for people."""

    def run(*arguments: str) -> str:
        done = command_line(*arguments, "--home", tiny_home.home.path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def working(tiny_home: Installation) -> Iterator[Callable[[], None]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "forecast", "work", "--home", str(tiny_home.home.path)]
        with (tiny_home.home.logs / "workers.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ)))

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_job_is_added_shown_changed_paused_resumed_and_removed(ask: Callable[..., Any]) -> None:
    added = ask("jobs", "add", "hourly", "--step", "ingest", "--step", "forecast", "--cron", "5 * * * *",
                "--set", "retries=3", "--set", "time_limit=2h")  # fmt: skip
    assert (added["steps"], added["retries"], added["time_limit"]) == (["ingest", "forecast"], 3, "2h")
    assert (added["name"], added["origin"], added["paused"]) == ("hourly", "ledger", False)
    assert ask("jobs", "show", "hourly") == added | {"runs": []}
    changed = ask("jobs", "change", "hourly", "--cron", "45 * * * *", "--zone", "Europe/Berlin")
    assert (changed["cron"], changed["zone"], changed["retries"]) == ("45 * * * *", "Europe/Berlin", 3)
    assert ask("jobs", "pause", "hourly")["paused"] is True
    assert ask("jobs", "resume", "hourly")["paused"] is False
    assert [(one["name"], one["last_run"]) for one in ask("jobs", "list")] == [("nightly", None), ("hourly", None)]
    assert ask("jobs", "remove", "hourly") == {"removed": "hourly"}
    assert [one["name"] for one in ask("jobs", "list")] == ["nightly"]


@pytest.mark.slow
def test_people_read_what_is_done_when(say: Callable[..., str], tiny_home: Installation) -> None:
    assert say("jobs", "add", "after", "--step", "forecast", "--on", "data") == "after: forecast, on data\n"
    assert say("jobs", "add", "asked", "--step", "score") == "asked: score, on request\n"
    assert say("jobs", "pause", "nightly") == "paused nightly\n"
    listed = say("jobs", "list")
    assert "retrain -> forecast" in listed
    assert "paused" in listed
    assert say("jobs", "resume", "nightly") == "resumed nightly\n"
    assert "steps retrain, forecast\ncron 30 2 * * *\nzone\n" in say("jobs", "show", "nightly")
    assert say("jobs", "remove", "after") == "removed after\n"
    assert not JobBook(tiny_home).job("nightly").paused


@pytest.mark.slow
def test_a_run_is_queued_listed_shown_and_cancelled(ask: Callable[..., Any], say: Callable[..., str]) -> None:
    queued = ask("jobs", "run", "nightly")
    assert (queued["run_id"], queued["state"], queued["cause"]) == (1, "queued", "hand")
    assert "run 2 of nightly is queued" in say("jobs", "run", "nightly")
    waiting = ask("runs", "queue")
    assert ([run["run_id"] for run in waiting["queue"]], waiting["hosts"]) == ([1, 2], [])
    assert "no worker host is running" in say("runs", "queue")
    assert ask("runs", "cancel", "1")["state"] == "cancelled"
    assert say("runs", "cancel", "2") == "run 2 is cancelled\n"
    assert [run["run_id"] for run in ask("runs", "list")] == [2, 1]
    shown = ask("runs", "show", "1")
    assert (shown["run"]["reason"], shown["attempts"]) == ("cancelled before it began", [])
    assert "cancelled before it began" in say("runs", "show", "1")


@pytest.mark.slow
def test_coalesced_runs_are_listed_only_when_asked_for(ask: Callable[..., Any], tiny_home: Installation) -> None:
    dates = [Due(logical_date=name, at=NOW, cause=Cause.CRON) for name in ("a", "b")]
    tiny_home.ledger.runs.claim("nightly", REFRESH, dates, NOW)
    assert [run["logical_date"] for run in ask("runs", "list")] == ["b"]
    assert [run["logical_date"] for run in ask("runs", "list", "--all", "--job", "nightly")] == ["b", "a"]


def test_a_back_fill_queues_each_date_once_in_the_jobs_zone(ask: Callable[..., Any], say: Callable[..., str]) -> None:
    assert ask("jobs", "backfill", "nightly", "2024-05-01", "2024-05-03T02:30") == [1, 2, 3]
    assert ask("jobs", "backfill", "nightly", "2024-05-03T04:30:00+0200", "2024-05-04T04:30:00+0200") == [4]
    assert (
        say("jobs", "backfill", "nightly", "2024-05-01", "2024-05-04") == "every date of this range already had a run\n"
    )
    assert ask("runs", "queue")["queue"][0]["logical_date"] == "2024-05-01T02:30"


@pytest.mark.slow
def test_a_run_is_waited_for_with_its_log(
    command_line: CommandLine, tiny_home: Installation, working: Callable[[], None], say: Callable[..., str]
) -> None:
    JobBook(tiny_home).add("refresh", REFRESH)
    working()
    home = ("--home", tiny_home.home.path)
    done = command_line("jobs", "run", "refresh", "--wait", *home)
    assert done.returncode == 0, done.stderr
    assert "run 1 succeeded: 0 new and 0 changed rows; forecast " in done.stdout
    assert say("runs", "log", "1") == done.stdout == say("runs", "log", "1", "--follow")
    assert "attempt 1 on " in say("runs", "show", "1")
    (tiny_home.home.path / "rows.csv").unlink()
    failed = command_line("jobs", "run", "refresh", "--wait", "--json", *home)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["reason"].startswith("[source.not_found]")
    assert failed.stderr == ""


def test_mistakes_end_with_one_clear_line_and_their_own_exit_code(
    run: Callable[..., tuple[int, str, str]],
    command_line: CommandLine,
    tiny_home: Installation,
    subtests: pytest.Subtests,
) -> None:
    book = JobBook(tiny_home)
    book.add("refresh", REFRESH)
    book.add("asked", Job.model_validate({"dataset": "tiny", "steps": ["forecast"]}))
    tiny_home.ledger.runs.cancel(book.run_now("refresh"), NOW)
    for arguments, code, message in MISTAKES:
        with subtests.test(arguments=arguments):
            status, out, err = run(*arguments, "--home", tiny_home.home.path)
            (line,) = err.strip().splitlines()
            assert (status, out) == (code, ""), line
            assert [part for part in message if part not in line] == []
    done = command_line("jobs", "show", "nigthly", "--home", tiny_home.home.path, "--json")
    assert (done.returncode, json.loads(done.stderr)["code"]) == (3, "job.unknown")
    assert set(book.jobs()) == {"nightly", "refresh", "asked"}
    assert len(tiny_home.ledger.runs.find()) == 1


@pytest.mark.parametrize("arguments", USAGE)
def test_what_the_command_line_does_not_know_is_a_usage_error(
    run: Callable[..., tuple[int, str, str]], tiny_home: Installation, arguments: tuple[str, ...]
) -> None:
    code, _, err = run(*arguments, "--home", str(tiny_home.home.path))
    assert code == 2
    assert "Usage" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("group", "command"),
    [("jobs", name) for name in ("list", "show", "add", "change", "remove", "pause", "resume", "run", "backfill")]
    + [("runs", name) for name in ("list", "queue", "show", "cancel", "log")],
)
def test_every_command_explains_itself(run: Callable[..., tuple[int, str, str]], group: str, command: str) -> None:
    code, out, _ = run(group, command, "--help")
    assert code == 0
    assert "--home" in out


def test_a_log_of_another_home_is_not_shown(say: Callable[..., str], tiny_home: Installation, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.write_text("not ours\n", encoding="utf-8")
    run_id = JobBook(tiny_home).run_now("nightly")
    taken = tiny_home.ledger.runs.take("elsewhere", NOW, trainings=1, others=1)
    assert taken is not None
    tiny_home.ledger.runs.started(taken, 1, str(elsewhere))
    tiny_home.home.run_log(run_id).write_text("ours: [bold] as it is\n", encoding="utf-8")
    assert say("runs", "log", str(run_id)) == "ours: [bold] as it is\n"
