"""Rows from one Parquet file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from forecast.errors import DataError


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file."""
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # a truncated file panics
        raise DataError(
            "source.malformed",
            f'"{path}" is not a readable Parquet file ({str(error).splitlines()[0]})',
            "write it again or take it from a backup",
        ) from error
