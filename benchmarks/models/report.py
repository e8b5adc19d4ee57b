"""Reports of times: rows, goals, a Markdown table and a CSV file."""

import csv
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One side of one comparison; milliseconds per step (or call), each median is over one number per round."""

    comparison: str
    side: str
    median: float
    lower_quartile: float
    upper_quartile: float
    windows_per_second: float | None
    """None if the side trains on no window."""
    rounds: int
    threads: int
    torch: str
    machine: str


@dataclass(frozen=True, slots=True)
class Goal:
    """The ratio of two sides' times, and its bound."""

    comparison: str
    slower: str
    faster: str | None
    """None if the bound is in milliseconds."""
    bound: float
    at_most: bool = False
    """True: the slower side is ours, and the bound is a maximum. False: it is a rival, and the bound is a minimum."""

    def verdict(self, rows: Iterable[Row]) -> str | None:
        """Return the measured ratio of medians as a line of a table; None if a side is missing."""
        medians = {row.side: row.median for row in rows if row.comparison == self.comparison} | {None: 1.0}
        if not {self.slower, self.faster} <= medians.keys():
            return None
        ratio = medians[self.slower] / medians[self.faster]
        met = ratio <= self.bound if self.at_most else ratio >= self.bound
        wanted = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        return f"| {self.slower} over {self.faster or '1 ms'} | {ratio:.2f} | {wanted} | {'met' if met else 'missed'} |"


def row_of(comparison: str, side: str, times: Sequence[float], *, windows: int | None, threads: int) -> Row:
    """Reduce the times of one side; `windows` is the batch."""
    lower, median, upper = statistics.quantiles(times if len(times) > 1 else [*times, *times], n=4, method="inclusive")
    rate = windows / median * 1e3 if windows else None
    return Row(comparison, side, median, lower, upper, rate, len(times), threads, torch.__version__, machine())


def machine() -> str:
    """Return the name of the processor, so that each figure carries its machine."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="ascii", errors="replace").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def markdown(rows: Sequence[Row], goals: Iterable[Goal]) -> str:
    """Return a table of all rows, then of all goals with both sides measured."""
    lines = ["| Comparison | Side | ms | Quartiles | Windows/s |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        rate = f"{row.windows_per_second:.0f}" if row.windows_per_second else "-"
        spread = f"{_digits(row.lower_quartile)} .. {_digits(row.upper_quartile)}"
        lines.append(f"| {row.comparison} | {row.side} | {_digits(row.median)} | {spread} | {rate} |")
    lines += ["", "| Ratio | Measured | Goal | |", "| --- | ---: | ---: | --- |"]
    lines += [line for goal in goals if (line := goal.verdict(rows))]
    return "\n".join(lines) + "\n"


def _digits(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write every row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
            writer.writerow(shown)
