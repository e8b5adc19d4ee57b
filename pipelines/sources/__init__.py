"""Sources of rows: one file per kind of source, one line each in ``SOURCES``.

A new file format is a function ``(content, config) -> polars.DataFrame`` that raises
``DataError("source.malformed", ...)``, and a line ``"kind": files(read_it)`` here. Other sources are a :data:`Source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from forecast.config.dataset import DatasetConfig
from pipelines.sources.arrow import read_arrow
from pipelines.sources.batch import Batch, Unreadable
from pipelines.sources.benchmark import read_benchmark
from pipelines.sources.csv import read_csv
from pipelines.sources.files import files
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.parquet import read_parquet
from pipelines.sources.sql import read_sql

__all__ = ["SOURCES", "Batch", "Source", "Unreadable", "read"]

Source = Callable[[str, DatasetConfig, Path, str | None], Iterator[Batch | Unreadable]]

SOURCES: Mapping[str, Source] = {
    "csv": files(read_csv),
    "parquet": files(read_parquet),
    "jsonl": files(read_jsonl),
    "arrow": files(read_arrow),
    "replay": files(read_parquet),  # Parquet files whose rows ingestion releases by the replay's clock
    "sql": read_sql,
    "benchmark": read_benchmark,
    "push": lambda *_: iter(()),  # nothing to read: clients push the rows
}
"""By ``source.kind`` of the config file: (data set, config, folder of the config file, cursor) -> batches."""


def read(name: str, config: DatasetConfig, base: Path, cursor: str | None = None) -> Iterator[Batch | Unreadable]:
    """Read the source of the data set ``name``: all rows, or those since ``cursor``.

    Paths are relative to ``base``. Raises ``source.*`` if the source cannot be read, and ``ingest.missing_column`` if
    a column is missing. If the source has several files, an unreadable one is yielded as :class:`Unreadable` instead.
    """
    return SOURCES[config.source.kind](name, config, base, cursor)
