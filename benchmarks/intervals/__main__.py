"""Measure the effect of calibration on forecast intervals: coverage and quantile loss on held-out windows.

python -m benchmarks.intervals  (a CSV and a figure into results/, a summary on standard output)

A model with rows in the file is skipped, so that an interrupted run continues with the next model.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.intervals.data import JOBS, NotHereError, read
from benchmarks.intervals.figure import draw
from benchmarks.intervals.measure import BANDS, Row, measure
from forecast.config.file import load_config_file

RESULTS = Path(__file__).parent / "results"
PROMISED, TOLERANCE = 0.8, 0.04
_TYPES: dict[str, Any] = {entry.name: entry.type for entry in fields(Row)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models without rows, and draw."""
    jobs = load_config_file(JOBS).datasets
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=list(jobs), default=list(jobs))
    parser.add_argument("--models", nargs="+", help="models of the data set; all if left out")
    parser.add_argument("--csv", type=Path, default=RESULTS / "intervals.csv")
    parser.add_argument("--figure", type=Path, default=RESULTS / "intervals.png")
    options = parser.parse_args(arguments)
    rows = read_rows(options.csv)
    for dataset in options.datasets:
        done = {row.model for row in rows if row.dataset == dataset}
        wanted = [name for name in jobs[dataset].models if not options.models or name in options.models]
        todo = [name for name in wanted if name not in done]
        try:
            history = read(dataset) if todo else None
        except NotHereError as error:
            sys.stderr.write(f"{dataset} is left out: {error}\n")
            continue
        for model in todo:
            sys.stderr.write(f"{dataset}: {model}\n")
            if history is not None:
                rows += measure(dataset, history, model)
                write_rows(options.csv, rows)
    if not rows:
        return 1
    sys.stdout.write(summary(rows))
    draw(rows, PROMISED, TOLERANCE).savefig(options.figure, dpi=130, metadata={"Software": None})
    return 0


def read_rows(path: Path) -> list[Row]:
    """Read the rows of earlier runs."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{name: _TYPES[name](text) for name, text in line.items()}) for line in csv.DictReader(file)]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(_TYPES), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            fields = asdict(row).items()
            writer.writerow({name: f"{value:.5g}" if isinstance(value, float) else value for name, value in fields})
    part.replace(path)


def summary(rows: Sequence[Row]) -> str:
    """Return a Markdown table: one line per data set, model and kind of band."""
    lines = [
        "| Data | Model | Bands | Coverage | Groups within 4 points | Farthest group | Pinball / before |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for dataset, model in dict.fromkeys((row.dataset, row.model) for row in rows):
        own = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
        before = sum(row.pinball for row in own if row.bands == "none")
        for bands in BANDS:
            part = [row for row in own if row.bands == bands]
            mean = sum(row.coverage for row in part) / len(part)
            near = sum(abs(row.coverage - PROMISED) <= TOLERANCE for row in part)
            farthest = max(part, key=lambda row: abs(row.coverage - PROMISED))
            ratio = sum(row.pinball for row in part) / before
            lines.append(
                f"| {dataset} | {model} | {bands} | {mean:.3f} | {near} of {len(part)} | {farthest.coverage:.3f} "
                f"({farthest.channel}, {farthest.first_lead}-{farthest.last_lead}) | {ratio:.3f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
