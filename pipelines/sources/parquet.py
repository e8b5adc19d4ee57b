"""Rows from Parquet."""

from __future__ import annotations

import polars as pl
from pyarrow.parquet import ParquetFile

from forecast.config.dataset import DatasetConfig
from pipelines.sources.arrow import reading
from pipelines.sources.batch import Content, used_columns


def read_parquet(content: Content, config: DatasetConfig) -> pl.DataFrame:
    """Read the used columns of a Parquet file; all columns if one is missing, so that the error can suggest a name."""
    used = set(used_columns(config))
    with reading(content, "Parquet") as opened:
        file = ParquetFile(opened)
        columns = [name for name in file.schema_arrow.names if name.strip() in used]
        table = file.read(columns if len(columns) == len(used) else None)
        return pl.DataFrame(pl.from_arrow(table))
