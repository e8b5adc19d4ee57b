"""Rows from one CSV file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from forecast.errors import DataError


def read_csv(path: Path) -> pl.DataFrame:
    """Read a CSV file with a header; every column stays text, so that ingest can name the cell that is no number."""
    try:
        return pl.read_csv(path, glob=False, infer_schema=False, null_values=["", "NA", "NaN", "nan", "null"])
    except pl.exceptions.PolarsError as error:
        raise DataError(
            "source.malformed",
            f'"{path}" is not a readable CSV file ({str(error).splitlines()[0]})',
            "check its header, quotes and encoding (UTF-8)",
        ) from error
