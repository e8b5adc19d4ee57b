"""Rows from CSV and TSV."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.config.sources import FileSource
from forecast.errors import DataError
from pipelines.sources.batch import Content, headers, require_columns, value_columns
from pipelines.sources.compression import plain_name

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Content of a cell without a value."""

_CHUNK = 1 << 20
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_csv(content: Content, config: DatasetConfig) -> pl.DataFrame:
    """Read a CSV file in UTF-8 with a header; a tab separates its cells if its name ends in ``.tsv``.

    A column of values becomes numbers if every cell is a number. Otherwise it stays text, so that a later check can
    name the wrong cell. Other columns stay text. Raises ``source.*``, with the line if it is known.
    """
    separator = _separator(content, config)
    names, lines = _header(content, separator)
    require_columns(names, config, content.name)
    values = [name for name in dict.fromkeys(value_columns(config)) if name in names]
    # Parse every column: only then does polars reject a line with too many cells.
    has_commas = isinstance(config.source, FileSource) and config.source.decimal_comma
    parse = partial(
        pl.read_csv, content.data, has_header=False, skip_lines=lines, separator=separator, glob=False,
        decimal_comma=has_commas,
    )  # fmt: skip
    try:
        try:
            types = {name: pl.Float64 if name in values else pl.String for name in names}
            frame = parse(schema=types, null_values=dict.fromkeys(values, "NA"))
        except pl.exceptions.PolarsError:
            text = parse(schema=dict.fromkeys(names, pl.String))
            if has_commas:
                text = text.with_columns(pl.col(values).str.replace(",", ".", literal=True))
            frame = text.with_columns(_number_if_all_are(text[name]) for name in values)
    except pl.exceptions.PolarsError as error:
        _raise_for_line(content, len(names), separator)
        raise _malformed(content.name, f"it cannot be parsed{content.because(error)}") from error
    if frame.is_empty():
        raise DataError(
            "source.no_rows", f'"{content.name}" has a header but no rows', "check the program that writes it"
        )
    if _count(content, separator) != (len(frame) + 1) * (len(names) - 1):
        _raise_for_line(content, len(names), separator)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _separator(content: Content, config: DatasetConfig) -> str:
    given = config.source.separator if isinstance(config.source, FileSource) else ""
    return given or ("\t" if plain_name(content.name).lower().endswith(".tsv") else ",")


def _header(content: Content, separator: str) -> tuple[list[str], int]:
    """Return the names of the columns, and the number of lines of the header."""
    with content.open() as opened:
        head = opened.read(_CHUNK)
    if not head.strip():
        raise DataError("source.empty", f'"{content.name}" is empty', "check the program that writes it")
    if head.startswith(_UTF_16):
        raise _not_utf8(content.name, "UTF-16")
    if b"\0" in head:
        raise _malformed(content.name, "it has zero bytes, so it is not text")
    with content.open() as opened:
        lines = csv.reader(_decoded(opened, content.name), delimiter=separator, strict=True)
        try:
            return headers(next(lines), content.name), lines.line_num
        except csv.Error as error:
            raise _malformed(content.name, "line 1: a quote is not closed or misplaced") from error


def _number_if_all_are(text: pl.Series) -> pl.Series:
    text = text.str.strip_chars()
    text = text.set(text.is_in(MISSING), None)
    numbers = text.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == text.null_count() else text


def _count(content: Content, separator: str) -> int:
    """Count the separators, including those in quotes: many times faster than parsing the quotes."""
    with content.open() as opened:
        chunks = (np.frombuffer(chunk, np.uint8) for chunk in iter(partial(opened.read, _CHUNK), b""))
        return sum(int(np.count_nonzero(chunk == ord(separator))) for chunk in chunks)


def _raise_for_line(content: Content, width: int, separator: str) -> None:
    """Raise for the first line that is not UTF-8, has the wrong number of cells, or a misplaced quote; else return."""
    with content.open() as opened:
        rows = csv.reader(_decoded(opened, content.name), delimiter=separator, strict=True)
        begin = 1
        try:
            for row in rows:
                if row and len(row) != width:
                    raise _malformed(content.name, f"line {begin} has {len(row)} cells, the header {width}")
                begin = rows.line_num + 1
        except csv.Error as error:
            raise _malformed(content.name, f"line {begin}: a quote is not closed or misplaced") from error


def _decoded(opened: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(opened, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(name, f"line {number}") from error


def _malformed(name: str, fact: str) -> DataError:
    return DataError(
        "source.malformed", f'"{name}" is not a readable CSV file: {fact}', "correct the program that writes it"
    )


def _not_utf8(name: str, where: str) -> DataError:
    return DataError("source.not_utf8", f'"{name}" is not UTF-8 ({where})', "save it as UTF-8")
