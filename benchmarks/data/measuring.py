"""Timing of tables: interleaved sides, median and quartiles, one CSV row each."""

import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One side of one task; times in milliseconds."""

    task: str
    side: str
    size: str
    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    ratio: float
    """Median relative to the reference side of the same run."""
    machine: str


def measure(
    sides: Mapping[str, Callable[[int], object]], *, task: str, sizes: Mapping[str, str], against: str, rounds: int
) -> list[Row]:
    """Time every side once per round, in turn, so that a slow minute affects all sides.

    A side gets the number of the round; round 0 warms up and is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side(number)
            taken[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    quartiles = {name: statistics.quantiles(times[1:], n=4, method="inclusive") for name, times in taken.items()}
    return [
        Row(
            task=task,
            side=name,
            size=sizes[name],
            median=medians[name],
            lower_quartile=quartiles[name][0],
            upper_quartile=quartiles[name][2],
            rounds=rounds,
            ratio=medians[name] / medians[against],
            machine=platform.processor() or platform.machine(),
        )
        for name in sides
    ]


def report(rows: Sequence[Row], path: Path) -> None:
    """Print a table and write the same rows as CSV."""
    sys.stdout.write(f"{'side':<34}{'size':<44}{'median':>12}{'quartiles':>20}{'ratio':>8}\n")
    for row in rows:
        spread = f"{row.lower_quartile:.1f}..{row.upper_quartile:.1f}"
        sys.stdout.write(f"{row.side:<34}{row.size:<44}{row.median:>9.1f} ms{spread:>20}{row.ratio:>7.2f}x\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
