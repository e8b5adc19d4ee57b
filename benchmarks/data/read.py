"""The training window of 100 channels and 20k steps: from the table into a float32 tensor.

python -m benchmarks.data.read  (CSV into results/, table on standard output)

The plain side reads the same files with polars, from a known list of files. "first" is the first read of a process,
which verifies the SHA-256 of every file; later reads compare only sizes and modification times. The goal is 100 ms.
"""

import argparse
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.data.measuring import RESULTS, measure, report
from forecast.lake import checksums
from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME

STEPS = 20_000
CHANNELS = tuple(f"c{number}" for number in range(100))
START = datetime(2020, 1, 1, tzinfo=UTC)
SINCE = START + timedelta(hours=STEPS)


def history() -> pl.DataFrame:
    """Return twice the hours of the window, for one series."""
    random = np.random.default_rng(0)
    hours = pl.select((pl.lit(START) + pl.duration(hours=pl.int_range(2 * STEPS))).cast(TIME).alias("time"))
    values = {name: (50 + 10 * random.standard_normal(len(hours))).round(3) for name in CHANNELS}
    return hours.select(pl.lit("east").alias("series"), "time").with_columns(
        pl.Series(name, column) for name, column in values.items()
    )


def tensor(rows: pl.DataFrame) -> Tensor:
    """Convert rows to a tensor [steps, channels]."""
    return torch.from_numpy(rows.select(pl.col(CHANNELS).cast(pl.Float32)).to_numpy())


def main() -> None:
    """Build, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--csv", type=Path, default=RESULTS / "read.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "locks").mkdir()
        table = Observations(Path(folder, "lake"), Path(folder, "locks"), "bench", CHANNELS)
        table.merge(history())
        data = Path(folder, "lake", "bench", "observations")
        files = [path for path in sorted(data.glob("month=*/*")) if path.parent.name >= f"month={SINCE:%Y-%m}"]

        def ours(_: int) -> Tensor:
            return tensor(table.read(since=SINCE))

        def first(number: int) -> Tensor:
            checksums._INTACT.clear()  # noqa: SLF001 - as a process that has just started
            return ours(number)

        def plain(_: int) -> Tensor:
            return tensor(pl.scan_parquet(files).filter(pl.col("time") >= SINCE).sort("series", "time").collect())

        if not torch.equal(ours(0), plain(0)):
            raise RuntimeError("the sides disagree")
        sides = {"plain files": plain, "ours": ours, "ours, first, with all digests": first}
        sizes = dict.fromkeys(sides, f"{STEPS} steps x {len(CHANNELS)} channels")
        rows = measure(sides, task="training window", sizes=sizes, against="plain files", rounds=options.rounds)
    report(rows, options.csv)


if __name__ == "__main__":
    main()
