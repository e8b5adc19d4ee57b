"""Ingestion of a CSV file of ten million values with all checks, beside a plain read and a plain Delta table.

python -m benchmarks.data.ingest  (each side in a process of its own, in turn; rows go to results/ingest.csv)

The plain side does the minimum: read the file, write it partitioned by month, hash the file, flush the written files.
It checks nothing. Memory is the peak of the process beyond its imports.
"""

import argparse
import csv
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

RESULTS = Path(__file__).parent / "results" / "ingest.csv"
CHANNELS = tuple(f"c{number}" for number in range(10))
SERIES = 40
STEPS = 25_000
GOAL_TIME, GOAL_MEMORY = 2.0, 3.0
_MIB = 2**20


def write_source(path: Path) -> None:
    """Write 40 series of 25,000 hours and 10 channels, in order of time like a feed."""
    random = np.random.default_rng(0)
    first = datetime(2020, 1, 1, tzinfo=UTC)
    last = first + timedelta(hours=STEPS - 1)
    times = pl.datetime_range(first, last, "1h", eager=True).dt.replace_time_zone(None)
    sites = pl.DataFrame({"site": [f"site-{number:02}" for number in range(SERIES)]})
    frame = pl.DataFrame({"time": times}).join(sites, how="cross")
    values = {name: (50 + 10 * random.standard_normal(len(frame))).round(4) for name in CHANNELS}
    frame.with_columns(**{name: pl.Series(column) for name, column in values.items()}).write_csv(path)


def plain(home: Path) -> None:
    """Read, write, hash, flush."""
    from deltalake import write_deltalake

    from forecast.durability import flush

    source = home / "rows.csv"
    rows = pl.read_csv(source, try_parse_dates=True).with_columns(month=pl.col("time").dt.strftime("%Y-%m"))
    write_deltalake(str(home / "plain"), rows, partition_by=["month"])
    with source.open("rb") as opened:
        hashlib.file_digest(opened, "sha256")
    for file in sorted((home / "plain").rglob("*")):
        flush(file)


def ours(home: Path) -> None:
    """Ingest as a user does."""
    from forecast.installation import Installation
    from pipelines.ingestion.ingest import ingest

    installation = Installation.open(home)
    with installation.ledger:
        receipt = ingest(installation.dataset("bench"))
    if receipt.new != SERIES * STEPS:
        raise SystemExit(f"only {receipt.new} rows came in")


SIDES: Mapping[str, Callable[[Path], None]] = {"plain": plain, "ours": ours}
_JOB = """
[datasets.bench]
source = {{ kind = "csv", path = "rows.csv" }}
frequency = "1h"
series = "site"
horizons = [24]
lookback = 48
season = 24
models = ["seasonal_naive"]
[datasets.bench.channels]
{channels}
"""


def main() -> None:
    """Measure both sides in turn, print medians, write rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        _run(options.side, options.home)
        return
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.csv"
        write_source(source)
        raw = pl.read_csv(source, try_parse_dates=True).estimated_size() / _MIB
        for turn in range(options.rounds + 1):
            for side in SIDES:
                measured = _in_a_process(side, Path(folder) / f"{side}-{turn}", source)
                if turn:  # the first round warms the disk cache
                    taken[side].append(measured)
    medians = {side: [statistics.median(one) for one in zip(*runs, strict=True)] for side, runs in taken.items()}
    for side, (seconds, memory) in medians.items():
        sys.stdout.write(f"{side:6} {seconds:6.2f} s  {memory:6.0f} MiB\n")
    ratio = medians["ours"][0] / medians["plain"][0]
    sys.stdout.write(
        f"time {ratio:.2f} times the plain side (goal {GOAL_TIME}); memory {medians['ours'][1] / raw:.2f} times the "
        f"raw columns of {raw:.0f} MiB (goal {GOAL_MEMORY}; plain {medians['plain'][1] / raw:.2f})\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["side", "seconds", "peak_mib", "raw_mib", "rounds", "cores", "date"])
        for side, (seconds, memory) in medians.items():
            cores = len(os.sched_getaffinity(0))
            date = datetime.now(UTC).date()
            writer.writerow([side, f"{seconds:.3f}", f"{memory:.1f}", f"{raw:.1f}", options.rounds, cores, date])


def _in_a_process(side: str, home: Path, source: Path) -> tuple[float, float]:
    home.mkdir()
    (home / "rows.csv").hardlink_to(source)
    lines = "\n".join(f'{name} = {{ role = "target", lower = -1000 }}' for name in CHANNELS)
    (home / "forecast.toml").write_text(_JOB.format(channels=lines), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.data.ingest", "--side", side, "--home", str(home)]
    seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, memory


def _run(side: str, home: Path) -> None:
    import deltalake  # noqa: F401  # both sides import before the clock starts

    import pipelines.ingestion.ingest  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    SIDES[side](home)
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before]))


if __name__ == "__main__":
    main()
