"""A merge of 10k rows into a table of 1M rows: ours beside Delta's own, and ours with five times as much history.

python -m benchmarks.data.merge  (CSV into results/, table on standard output)

Half of the rows are new, and half correct the newest ones. The bare side is `DeltaTable.merge` on a table partitioned
by month, with the month in its predicate: it neither compares nor flushes nor stores digests. Ours does all three, and
verifies the files that it reads.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from deltalake import DeltaTable, write_deltalake

from benchmarks.data.measuring import RESULTS, measure, report
from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME

CHANNELS = ("load", "wind", "sun")
SERIES = 114
END = datetime(2024, 12, 20, tzinfo=UTC)
HOURS = 8766
BATCH = 10_000


def rows(first: int, last: int, value: float) -> pl.DataFrame:
    """Return the hours from `first` to before `last`, counted from `END`, of all series."""
    hours = pl.select((pl.lit(END) + pl.duration(hours=pl.int_range(first, last))).alias("time"))
    series = pl.select(pl.format("s{}", pl.int_range(SERIES)).alias("series"))
    noise = (pl.int_range(pl.len()) * 7919 % 104_729) / 1000 + value
    return series.join(hours, how="cross").select(
        "series", pl.col("time").cast(TIME), *[(noise + number).alias(name) for number, name in enumerate(CHANNELS)]
    )


def batch(number: int) -> pl.DataFrame:
    """Return a batch that corrects the 5k newest rows and adds 5k new ones."""
    half = BATCH // 2 // SERIES
    return rows(half * (number - 1), half * (number + 1), float(number + 1))


def our_merge(folder: Path, years: int, batches: Sequence[pl.DataFrame]) -> Callable[[int], object]:
    """Create a table of the lake; returns a function that merges the batch of a round."""
    (folder / "locks").mkdir(parents=True)
    table = Observations(folder / "lake", folder / "locks", "bench", CHANNELS)
    table.merge(rows(-HOURS * years, 0, 0.0))

    def merge(number: int) -> None:
        counts = table.merge(batches[number])
        if number and min(counts.new, counts.changed) == 0:
            raise RuntimeError(f"nothing was measured: {counts}")

    return merge


def bare_merge(folder: Path, batches: Sequence[pl.DataFrame]) -> Callable[[int], object]:
    """Create a plain Delta table partitioned by month; returns a function that merges the batch of a round."""
    month = pl.col("time").dt.strftime("%Y-%m").alias("month")
    write_deltalake(folder, rows(-HOURS, 0, 0.0).with_columns(month), partition_by=["month"])

    def merge(number: int) -> None:
        incoming = batches[number].with_columns(month)
        months = ", ".join(f"'{each}'" for each in incoming["month"].unique().sort())
        (
            DeltaTable(folder)
            .merge(
                incoming,
                predicate=f"t.month in ({months}) and t.month = s.month and t.series = s.series and t.time = s.time",
                source_alias="s",
                target_alias="t",
            )
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )

    return merge


def main() -> None:
    """Build, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, default=RESULTS / "merge.csv")
    options = parser.parse_args()
    million = f"{SERIES * HOURS / 1e6:.1f}M rows of 12 months"
    with tempfile.TemporaryDirectory() as folder:
        batches = [batch(number) for number in range(options.rounds + 1)]
        sides = {
            "bare Delta merge": bare_merge(Path(folder, "bare"), batches),
            "ours": our_merge(Path(folder, "ours"), 1, batches),
            "ours, five times the history": our_merge(Path(folder, "long"), 5, batches),
        }
        sizes = {
            "bare Delta merge": million,
            "ours": million,
            "ours, five times the history": f"{SERIES * HOURS * 5 / 1e6:.1f}M rows of 60 months",
        }
        rows_taken = measure(
            sides, task="merge of 10k rows", sizes=sizes, against="bare Delta merge", rounds=options.rounds
        )
    report(rows_taken, options.csv)


if __name__ == "__main__":
    main()
