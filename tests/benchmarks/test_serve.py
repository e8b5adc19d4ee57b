"""The benchmark of the service: load reaches a server, sides take turns, goals are judged by what was measured."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from benchmarks.results import write_rows
from benchmarks.serve import servers
from benchmarks.serve.__main__ import RESULTS, Row, rows
from benchmarks.serve.goals import Figures, goals
from benchmarks.serve.home import bodies, tensors
from benchmarks.serve.load import LoadResult, Target, is_installed, load_in_turns


def figures(per_second: float = 100.0) -> Figures:
    sides = [("cached read", "service"), ("cached read", "bare route"), ("on demand", "service")]
    sides += [("on demand", name) for name in ("bare route", "darts", "mlflow models serve")]
    sides += [(case, "service") for case in ("on demand, alone", "cached read, idle", "cached read beside a training")]
    loads = {side: {"requests_per_second": 100.0, "p50_ms": 1.0, "p99_ms": 2.0} for side in sides}
    loads["on demand", "service"]["requests_per_second"] = per_second
    return Figures(loads, {"whole": 1.0, "start_seconds": 2.0, "resident_mb": 300.0})


@pytest.mark.slow
def test_a_load_sends_every_body_and_reads_every_answer(tmp_path: Path) -> None:
    if not is_installed():
        pytest.skip("wrk is not installed")
    (tmp_path / "answer").write_bytes(b"{}")
    with servers.rival("bare", tmp_path / "log", str(tmp_path / "answer")) as bare:
        sides = {
            "message": (Target(bare.port, "/answer"), bare.process),
            "parsed": (Target(bare.port, "/parse", tuple(bodies(3))), bare.process),
        }
        seen = load_in_turns(sides, clients=2, seconds=1, rounds=1, scratch=tmp_path)
        with pytest.raises(RuntimeError, match="failed"):
            load_in_turns({"none": (Target(bare.port, "/none"), bare.process)}, 1, 1, 1, tmp_path)
    assert [len(seen[name]) for name in sides] == [1, 1]
    assert all(one.per_second > 0 and one.p99_ms >= one.p50_ms > 0 for name in sides for one in seen[name])
    assert not psutil.pid_exists(bare.process.pid) or not bare.process.is_running()


@pytest.mark.slow
def test_requests_differ_and_both_forms_tell_the_same_histories() -> None:
    assert len(set(bodies(8))) == len(set(tensors(8))) == 8


@pytest.mark.slow
def test_figures_are_medians_over_the_turns(tmp_path: Path) -> None:
    seen = {"service": [LoadResult(float(speed), 1.0, 2.0, 0.1) for speed in (1, 5, 3)]}
    message = rows("a case", 4, seen)
    assert message == [Row("a case", "service", 4, 3, 3.0, 1.0, 2.0, 0.1)]
    write_rows(tmp_path / "results" / "load.csv", [asdict(row) for row in message])
    with (tmp_path / "results" / "load.csv").open(encoding="utf-8") as file:
        assert [row["requests_per_second"] for row in csv.DictReader(file)] == ["3.0"]


@pytest.mark.slow
def test_a_goal_is_met_by_what_was_measured_alone() -> None:
    met = {goal.goal: goal.met for goal in goals(figures(2000.0))}
    assert met["on demand, 32 clients: requests/s, times darts' predict per request"]
    assert not {goal.goal: goal.met for goal in goals(figures())}[
        "on demand, 32 clients: requests/s, times darts' predict per request"
    ]


@pytest.mark.slow
def test_the_stored_goals_follow_from_the_stored_figures() -> None:
    def read(name: str) -> list[dict[str, str]]:
        with (RESULTS / name).open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    loads = {(row["case"], row["side"]): row for row in read("load.csv")}
    single = {row["name"]: float(row["value"]) for row in read("figures.csv")}
    message = [(row["goal"], float(row["reached"]), row["met"]) for row in read("goals.csv")]
    assert message == [(goal.goal, goal.reached, str(goal.met)) for goal in goals(Figures(loads, single))]
