"""Kill processes, freeze them, make clocks jump: check the invariants and measure the recovery. Writes into results/.

python -m benchmarks.reliability workers --kills 100
python -m benchmarks.reliability everything --kills 500
python -m benchmarks.reliability trainings
python -m benchmarks.reliability takeovers --times 10
python -m benchmarks.reliability silences --times 10
python -m benchmarks.reliability year --seeds 5

Each proof fails if anything was lost, run twice or run too late. ``--home`` reuses a folder with its champion.
"""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.reliability.home import make_home
from benchmarks.reliability.kills import KillTest
from benchmarks.reliability.takeover import silences, takeovers
from benchmarks.reliability.trainings import kill_in_each_phase
from benchmarks.reliability.year import Year
from benchmarks.results import write_rows

RESULTS = Path(__file__).parent / "results"
TAKEOVER_SECONDS, SILENCE_SECONDS = 5.0, 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one proof; returns 1 if it failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=["workers", "everything", "trainings", "takeovers", "silences", "year"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first year, or of the kills")
    parser.add_argument("--hours", type=float, default=3.0, help="mean hours between two steps of the year")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    logging.getLogger("forecast").setLevel(logging.ERROR)  # workers die here on purpose
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        match options.proof:
            case "year":
                rows = [
                    _year(Path(folder) / str(seed), seed, options.hours)
                    for seed in range(options.seed, options.seed + options.seeds)
                ]
                failed = sum(row["wrong"] for row in rows)
            case "takeovers" | "silences":
                home = make_home(options.home or Path(folder))
                measure = takeovers if options.proof == "takeovers" else silences
                rows = [
                    {"number": number, "seconds": round(found, 2)}
                    for number, found in enumerate(measure(home, options.times), 1)
                ]
                most = TAKEOVER_SECONDS if options.proof == "takeovers" else SILENCE_SECONDS
                failed = sum(row["seconds"] > most for row in rows)
            case "trainings":
                home = _with_champion(options.home or Path(folder))
                rows = [
                    {"phase": phase, "wrong": count} for phase, count in _told(kill_in_each_phase(home, options.kills))
                ]
                failed = sum(row["wrong"] for row in rows)
            case _:
                rows, failed = _siege(_with_champion(options.home or Path(folder)), options)
    write_rows(options.results / f"{options.proof}.csv", rows)
    sys.stdout.write(summary(options.proof, rows, failed))
    return 1 if failed or not rows else 0


def summary(proof: str, rows: Sequence[Mapping[str, Any]], failed: int) -> str:
    """Return the outcome in one line."""
    line = f"{proof}: {len(rows)} rows, {failed} wrong"
    if rows and "number" in rows[0] and set(rows[0]) == {"number", "seconds"}:
        seconds = [row["seconds"] for row in rows]
        line += f"; median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s"
    return line + "\n"


def _year(folder: Path, seed: int, hours: float) -> dict[str, Any]:
    begun = time.monotonic()
    year = Year(folder, seed, hours=hours)
    try:
        year.run()
        found = list(year.wrong())
        row = {"seed": seed, **asdict(year.counts), "runs": year.ledger.runs.find(limit=1)[0].run_id}
    finally:
        year.close()
    sys.stderr.write(f"seed {seed}: {row}\n" + "".join(f"  {message}\n" for message in found))
    return row | {"seconds": round(time.monotonic() - begun, 1), "wrong": len(found)}


def _siege(home: Path, options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    siege = KillTest(home, options.seed)
    try:
        kills = siege.workers(options.kills) if options.proof == "workers" else siege.everything(options.kills)
        rows = [asdict(kill) for kill in _told(kills)]
        left = siege.settle()
    finally:
        siege.close()
    sys.stderr.write("".join(f"at the end: {message}\n" for message in left))
    return rows, sum(row["wrong"] for row in rows) + len(left)


def _with_champion(home: Path) -> Path:
    """Return a home in which a real training has made a champion of the replay."""
    if not (home / "models").is_dir():
        make_home(home)
        for command in ("ingest", "train"):
            line = [sys.executable, "-m", "forecast", command, "tiny", "--home", str(home)]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return home


def _told(rows: Iterable[Any]) -> list[Any]:
    found = []
    for row in rows:
        sys.stderr.write(f"{row}\n")
        found.append(row)
    return found


if __name__ == "__main__":
    sys.exit(main())
