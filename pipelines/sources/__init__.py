"""Where rows come from: one file per kind of source, one line in ``SOURCES``.

A new format of files is a function ``(content, job) -> polars.DataFrame`` that raises ``DataError("source.malformed",
...)`` and, here, a line ``"kind": files(read_it)``. Anything else is a :data:`Source`.
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
    "replay": files(read_parquet),  # the same files; ingest releases their rows by the replay's clock
    "sql": read_sql,
    "benchmark": read_benchmark,
    "push": lambda *_: iter(()),  # nothing to read: rows come by themselves
}
"""By ``source.kind`` of the job file: (data set, job, folder of the job file, cursor) -> batches."""


def read(name: str, config: DatasetConfig, base: Path, cursor: str | None = None) -> Iterator[Batch | Unreadable]:
    """Read the source of the data set ``name``: all of it, or what is new since ``cursor``.

    Paths are relative to ``base``. Raises ``source.*`` if nothing can be read, ``ingest.missing_column`` if a column is
    missing; of several files each one that cannot be read comes as an :class:`Unreadable` instead.
    """
    return SOURCES[config.source.kind](name, config, base, cursor)
