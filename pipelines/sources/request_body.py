"""Rows from the body of a request, by its content type."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from pipelines.sources.arrow import read_arrow
from pipelines.sources.batch import Batch, Content, used_columns
from pipelines.sources.csv import read_csv
from pipelines.sources.files import Format
from pipelines.sources.jsonl import from_records, read_jsonl
from pipelines.sources.parquet import read_parquet
from pipelines.sources.records import frame_of


def _read_json(content: Content, config: DatasetConfig) -> pl.DataFrame:
    """Read records, ``[{...}]`` or ``{"rows": [{...}]}``, or columns, ``{"time": [...], ...}``."""
    try:
        sent = json.loads(content.data)  # type: ignore[arg-type]  # a body is bytes
    except (ValueError, RecursionError) as error:
        raise _unfit("the body is not JSON") from error
    return _frame(sent["rows"] if isinstance(sent, dict) and set(sent) == {"rows"} else sent, config, content.name)


def _frame(rows: Any, config: DatasetConfig, name: str) -> pl.DataFrame:
    if isinstance(rows, list):
        if not all(isinstance(record, dict) for record in rows):
            raise _unfit("not every row of the body is a JSON object")
        return from_records(rows, config, name)
    if not isinstance(rows, dict):
        raise _unfit("the body is neither rows nor columns")
    columns = {name: rows[name] for name in used_columns(config) if name in rows}
    if not all(isinstance(values, list) for values in columns.values()):
        raise _unfit("a column of the body is not an array")
    if len({len(values) for values in columns.values()}) > 1:
        raise _unfit("the columns of the body have different lengths")
    return frame_of(columns, name)


CONTENT_TYPES: Mapping[str, Format] = MappingProxyType(
    {
        "application/json": _read_json,
        "text/csv": read_csv,
        "text/tab-separated-values": read_csv,
        "application/x-ndjson": read_jsonl,
        "application/jsonl": read_jsonl,
        "application/vnd.apache.arrow.file": read_arrow,
        "application/vnd.apache.arrow.stream": read_arrow,
        "application/vnd.apache.parquet": read_parquet,
    }
)
"""Accepted content types, and their readers."""

_WITHHELD = MappingProxyType(
    {
        "ingest.missing_column": "use the column names of the config file",
        "source.doubled_column": "give every column a name of its own",
    }
)
"""Errors that would list names from the request, and the remedy they get instead."""


def from_body(data: bytes, content_type: str, config: DatasetConfig, name: str) -> Batch:
    """Read a body as rows of the data set ``name``; no error repeats any of its content.

    Raises ``source.unknown_content_type``, other ``source.*``, and ``ingest.missing_column``.
    """
    media, _, parameters = (part.strip() for part in content_type.lower().partition(";"))
    read = CONTENT_TYPES.get(media)
    if read is None:
        known = ", ".join(CONTENT_TYPES)
        raise DataError(
            "source.unknown_content_type", "the content type of the body is not supported", f"send one of {known}"
        )
    if "charset=" in parameters and parameters.partition("charset=")[2].strip("\"' ") not in {"utf-8", "utf8"}:
        raise DataError("source.not_utf8", "the body is not UTF-8", "send it as UTF-8")
    called = "body.tsv" if media == "text/tab-separated-values" else "body"
    with _names_withheld():
        return Batch.of(read(Content(called, data), config), name, config, "body", hashlib.sha256(data).hexdigest())


def from_json(rows: Any, config: DatasetConfig, name: str) -> Batch:
    """Return rows of parsed JSON, records or columns, as :func:`from_body` does, with an empty digest."""
    with _names_withheld():
        return Batch.of(_frame(rows, config, "body"), name, config, "body", "")


@contextmanager
def _names_withheld() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        if error.code not in _WITHHELD:
            raise
        fact = error.fact if error.code == "ingest.missing_column" else "two columns of the body have the same name"
        raise DataError(error.code, fact, _WITHHELD[error.code]) from None


def _unfit(fact: str) -> DataError:
    return DataError("source.malformed", fact, 'send [{"time": ..., ...}], {"rows": [...]} or {"time": [...], ...}')
