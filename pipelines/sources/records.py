"""Frames from Python values, as JSON and databases return them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from forecast.errors import DataError

_NUMBERS = {int, float, Decimal}
_PLAIN = {bool, int, str, datetime, date}


def frame_of(columns: Mapping[str, Sequence[Any]], name: str) -> pl.DataFrame:
    """Return columns of equal length as a frame; ``None`` is a missing value.

    A column of several types becomes text, so that a later check can name the wrong cell. Raises ``source.not_utf8``
    for text that is not Unicode; ``name`` is the source's name in messages.

    >>> frame_of({"load": [1, 2.5, None], "note": ["a", 1, None]}, "body").rows()
    [(1.0, 'a'), (2.5, '1'), (None, None)]
    """
    try:
        return pl.DataFrame([_column(column, values) for column, values in columns.items()])
    except UnicodeEncodeError as error:
        raise DataError("source.not_utf8", f'"{name}" has half of a surrogate pair', "write valid Unicode") from error


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if not kinds or (len(kinds) == 1 and kinds <= _PLAIN):
            return pl.Series(name, values)
        if kinds <= _NUMBERS:
            return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    except OverflowError:  # valid JSON may have integers of any length
        pass
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, dict, list)) else str(value)
