"""Rows from JSON lines, and frames from parsed JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from pipelines.sources.batch import Content, used_columns
from pipelines.sources.records import frame_of


def read_jsonl(content: Content, config: DatasetConfig) -> pl.DataFrame:
    """Read one JSON object per line; raises ``source.malformed`` with the first line that is not an object."""
    try:
        return pl.read_ndjson(content.data, infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        # Slower, but it names the wrong line, and reads the NaN and Infinity that many programs write into JSON.
        return from_records(list(_objects(content)), config, content.name)


def from_records(records: Sequence[Mapping[str, Any]], config: DatasetConfig, name: str) -> pl.DataFrame:
    """Return JSON objects as a frame with the used columns that at least one object has."""
    used = [column for column in used_columns(config) if any(column in record for record in records)]
    return frame_of({column: [record.get(column) for record in records] for column in used}, name)


def _objects(content: Content) -> Iterator[dict[str, Any]]:
    number = 0
    with content.open() as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _malformed(content.name, number) from error
            if not isinstance(found, dict):
                raise _malformed(content.name, number)
            yield found
    if not number:
        raise DataError("source.empty", f'"{content.name}" is empty', "check the program that writes it")


def _malformed(name: str, line: int) -> DataError:
    return DataError(
        "source.malformed", f'line {line} of "{name}" is not a JSON object', "correct the program that writes it"
    )
