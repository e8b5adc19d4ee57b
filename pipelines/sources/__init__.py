"""Where rows come from: one file per kind of source, one line in ``SOURCES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from pipelines.sources.csv import read_csv
from pipelines.sources.parquet import read_parquet

Reader = Callable[[Path], pl.DataFrame]

SOURCES: Mapping[str, Reader] = {
    "csv": read_csv,
    "parquet": read_parquet,
    "replay": read_parquet,  # the same file; ingest releases its rows by the replay's clock
}
"""By ``source.kind`` of the job file: path -> all rows as they are, nothing converted yet."""
