"""Frames made of Python values, as JSON and databases give them."""

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
    """Make a frame of columns of equal length, ``None`` for missing values.

    A column of several types becomes text, so that the cell that does not belong can be named. Raises
    ``source.not_utf8`` for text that is not Unicode; ``name`` is what messages call the source.
    """
    try:
        return pl.DataFrame([_column(column, values) for column, values in columns.items()])
    except UnicodeEncodeError as error:
        raise DataError("source.not_utf8", f'"{name}" holds half of a character', "write valid Unicode") from error


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(value) for value in values} - {type(None)}
    try:
        if not kinds or (len(kinds) == 1 and kinds <= _PLAIN):
            return pl.Series(name, values)
        if kinds <= _NUMBERS:
            return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    except OverflowError:  # whole numbers of any length are valid JSON
        pass
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, dict, list)) else str(value)
