"""Write the tables of docs/accuracy.md and its figure from the rows.

python -m benchmarks.accuracy.report
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.accuracy.cells import Row, read_rows
from benchmarks.accuracy.figure import draw
from benchmarks.accuracy.published import ELSEWHERE
from benchmarks.accuracy.recipes import HORIZONS
from benchmarks.accuracy.summary import SEEDS_ASKED, Result, averages, gaps, summarise

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "etth1.csv"
PAGE = ROOT / "docs" / "accuracy.md"
FIGURE = ROOT / "docs" / "images" / "accuracy.png"
BEGIN = "<!-- written by python -m benchmarks.accuracy.report: begin -->"
END = "<!-- written by python -m benchmarks.accuracy.report: end -->"
COLUMNS = ("Model", "Look-back", "Seeds", "MSE", "MAE", "Published", "Bar, at most", "Bar is", "Against the plain ones")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    rows = list(read_rows(options.results).values())
    if not rows:
        sys.stderr.write(f"error: {options.results} has no rows; run python -m benchmarks.accuracy.run first\n")
        return 2
    page = options.page.read_text(encoding="utf-8")
    if not 0 <= page.find(BEGIN) < page.find(END):
        sys.stderr.write(f"error: {options.page} has no place for the tables; insert the lines\n{BEGIN}\n{END}\n")
        return 2
    before, after = page[: page.find(BEGIN)], page[page.find(END) :]
    options.page.write_text(f"{before}{BEGIN}\n\n{render(rows)}\n{after}", encoding="utf-8")
    draw(summarise(rows)).savefig(options.figure, dpi=150, metadata={"Software": None})  # equal rows, equal bytes
    return 0


def render(rows: Sequence[Row]) -> str:
    """Return the tables, and the missing rows, as Markdown."""
    results = summarise(rows)
    return "\n".join([*_tables(results, rows), *_averages(results), *_missing(results), *_provenance(rows)])


def _tables(results: Sequence[Result], rows: Sequence[Row]) -> Iterator[str]:
    for horizon, group in groupby(results, key=lambda one: one.horizon):
        windows = {row.windows for row in rows if row.cell.horizon == horizon}
        yield f"### Horizon {horizon}: {' or '.join(f'{count:,}' for count in sorted(windows))} test windows\n"
        yield from _table(list(group))
        elsewhere = [f"{name} {errors[horizon]}" for name, errors in ELSEWHERE.items() if horizon in errors]
        if elsewhere:
            yield f"Published of models that are not here: {', '.join(elsewhere)}.\n"


def _averages(results: Sequence[Result]) -> Iterator[str]:
    found = averages(results)
    if found:
        yield f"### Average over horizons {', '.join(map(str, HORIZONS))}\n"
        yield from _table(found)


def _table(results: Sequence[Result]) -> Iterator[str]:
    references = [one for one in results if one.is_reference]
    yield _line(*COLUMNS)
    yield _line(*("---" for _ in COLUMNS))
    for one in results:
        yield _line(
            one.name,
            one.lookback,
            len(one.mse),
            _over_seeds(one.mse),
            _over_seeds(one.mae),
            one.published or "-",
            one.bar or "-",
            one.verdict(),
            one.losses(references),
        )
    yield ""


def _missing(results: Sequence[Result]) -> Iterator[str]:
    errors = gaps(results)
    yield "### What is missing\n"
    yield from [f"- {one}" for one in errors] or [f"Nothing: every preset has all horizons and {SEEDS_ASKED} seeds."]
    yield ""


def _provenance(rows: Sequence[Row]) -> Iterator[str]:
    def all_of(read: Callable[[Row], str]) -> str:
        return ", ".join(sorted({read(row) for row in rows}))

    dates = sorted({row.date for row in rows})
    yield (
        f"{len(rows)} rows, {sum(row.seconds for row in rows) / 3600:.1f} hours of training; "
        f"torch {all_of(lambda row: row.torch)}; code {all_of(lambda row: row.commit)} "
        f"(+: with changes not yet committed); {dates[0]}{f' to {dates[-1]}' if dates[1:] else ''}.\n"
    )


def _over_seeds(values: Sequence[float]) -> str:
    """Return the mean, with the range in brackets."""
    spread = f" ({max(values) - min(values):.4f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.4f}{spread}"


def _line(*entries: object) -> str:
    return f"| {' | '.join(map(str, entries))} |"


if __name__ == "__main__":
    sys.exit(main())
