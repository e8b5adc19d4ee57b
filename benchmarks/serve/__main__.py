"""Measure the service beside its references, and write ``results/``.

``python -m benchmarks.serve [HOME] [--seconds 5] [--rounds 5] [--without mlflow darts]``. Needs ``wrk``.

Servers and load generator share the cores of one machine. Servers are loaded in turns; figures are medians over turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.results import write_rows
from benchmarks.serve import servers
from benchmarks.serve.goals import Figures, goals
from benchmarks.serve.home import DATASETS, bodies, make_home, make_key, network, tensors
from benchmarks.serve.inside import inside
from benchmarks.serve.load import LoadResult, Target, load_in_turns

RESULTS = Path(__file__).parent / "results"
READ = f"/v1/datasets/{DATASETS[0]}/forecast"


@dataclass(frozen=True, slots=True)
class Row:
    """One server under one load: medians over the turns."""

    case: str
    side: str
    clients: int
    rounds: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float


def rows(case: str, clients: int, sides: Mapping[str, Sequence[LoadResult]]) -> list[Row]:
    """Return the medians of each side."""

    def middle(seen: Sequence[LoadResult], name: str) -> float:
        return round(statistics.median(getattr(one, name) for one in seen), 3)

    return [
        Row(
            case, side, clients, len(seen), middle(seen, "per_second"), middle(seen, "p50_ms"),
            middle(seen, "p99_ms"), middle(seen, "server_cpu_ms"),
        )
        for side, seen in sides.items()
    ]  # fmt: skip


def measure(home: Path, scratch: Path, options: argparse.Namespace) -> tuple[list[Row], dict[str, float]]:
    """Run all measurements on an existing home."""
    key, load_rows, single = make_key(home), list[Row](), inside(home)
    with ExitStack() as stack:
        ours = stack.enter_context(servers.service(home, scratch / "service.log"))
        single["start_seconds"] = ours.seconds
        answer = servers.get(ours.port, READ, key)
        if answer is None:
            raise RuntimeError((scratch / "service.log").read_text(encoding="utf-8")[-2000:])
        (scratch / "answer.json").write_bytes(answer)
        bare = stack.enter_context(servers.rival("bare", scratch / "bare.log", str(scratch / "answer.json")))
        reading = {
            "service": (Target(ours.port, READ, key=key), ours.process),
            "bare route": (Target(bare.port, "/answer"), bare.process),
        }

        def load(case: str, sides: Mapping[str, tuple[Target, psutil.Process]], clients: int) -> None:
            load_rows.extend(
                rows(case, clients, load_in_turns(sides, clients, options.seconds, options.rounds, scratch))
            )
            sys.stderr.write("".join(f"{row}\n" for row in load_rows[-len(sides) :]))

        single["answer_bytes"] = len(answer)
        load("cached read", reading, 32)
        alone = {"service": (Target(ours.port, "/v1/forecasts", tuple(bodies()), key), ours.process)}
        load("on demand, alone", alone, 1)
        sides = alone | {"bare route": (Target(bare.port, "/parse", tuple(bodies())), bare.process)}
        if "darts" not in options.without:
            slow = stack.enter_context(servers.rival("darts", scratch / "darts.log"))
            sides["darts"] = (Target(slow.port, "/predict", tuple(bodies())), slow.process)
        if "mlflow" not in options.without:
            model = in_mlflow(network(home), scratch / "mlflow")
            served = stack.enter_context(servers.mlflow(model, scratch / "mlflow.log"))
            sides["mlflow models serve"] = (Target(served.port, "/invocations", tuple(tensors())), served.process)
        load("on demand", sides, 32)
        single["resident_mb"] = ours.process.memory_info().rss / 1e6
        paced = {"service": reading["service"]}
        load("cached read, idle", paced, 4)
        with training(home):
            load("cached read beside a training", paced, 4)
    return load_rows, single


def in_mlflow(network: Path, place: Path) -> Path:
    """Save a network in MLflow's format."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(str(network)), str(place))
    return place


class training:  # noqa: N801 - it reads as what it is: ``with training(home)``
    """A training in a process of its own, as a worker runs it."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __enter__(self) -> None:
        """Wait until the training has begun."""
        command = [sys.executable, "-m", "benchmarks.serve.training", str(self._home)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self._process.stdout is None or not self._process.stdout.readline():
            raise RuntimeError("the training did not begin")

    def __exit__(self, *_: object) -> None:
        """End the training."""
        self._process.terminate()
        self._process.wait(30)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, write, and print which goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", nargs="?", type=Path, help="made if it is not there")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=[], choices=["mlflow", "darts"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch) / "home"
        if not home.exists():
            make_home(home)
        load_rows, single = measure(home, Path(scratch), options)
    single |= {"cores": os.cpu_count() or 0, "load_average": os.getloadavg()[1]}
    figures = [Single(name, round(value, 3)) for name, value in single.items()]
    reached = goals(Figures({(row.case, row.side): asdict(row) for row in load_rows}, single))
    for name, entries in {"load": load_rows, "figures": figures, "goals": reached}.items():
        write_rows(options.results / f"{name}.csv", [asdict(entry) for entry in entries])
    for goal in reached:
        sys.stdout.write(f"{goal}\n")


@dataclass(frozen=True, slots=True)
class Single:
    """One figure."""

    name: str
    value: float


if __name__ == "__main__":
    main()
