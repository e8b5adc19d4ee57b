"""Batches: the rows of every source in one shape, independent of its format and layout."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.config.sources import SqlSource
from forecast.errors import DataError, ForecastError, first_line, nearest
from forecast.vocabulary import Layout

Wide = tuple[pl.DataFrame, tuple[str, ...]]
"""Rows in the shape of a batch, and the names of unknown channels that were left out."""

_IS_ROW = "__is_row"


@dataclass(frozen=True, slots=True)
class Content:
    """Something to read: a file on disk, or the bytes of a request."""

    name: str
    """Its name in messages."""
    data: Path | bytes

    def open(self) -> BinaryIO:
        """Open it for reading."""
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")

    def starts_with(self, magic: bytes) -> bool:
        """Whether the content starts with these bytes."""
        with self.open() as opened:
            return opened.read(len(magic)) == magic

    def because(self, error: BaseException) -> str:
        """Return a library's message in brackets; empty for a request, whose content messages never repeat."""
        return f" ({first_line(error)})" if isinstance(self.data, Path) else ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that were read together, from one file, request or query."""

    name: str
    """Their origin, for messages: a file's name, ``table readings``."""
    rows: pl.DataFrame
    """``row`` (Int64, the number of the data row in its source, from 1), ``series``, ``time``, ``version`` if the
    config names one, and a column per channel. Values are as received: text or typed, nothing converted."""
    digest: str
    """SHA-256 of the content that was read."""
    cursor: str | None = None
    """sql: the cursor for the next reading."""
    unknown_channels: tuple[str, ...] = field(default=())
    """long: names of channels missing in the config file; their rows were left out."""

    @classmethod
    def of(cls, frame: pl.DataFrame, dataset: str, config: DatasetConfig, name: str, digest: str) -> Self:
        """Arrange a frame from a file, a database or a caller as a batch; raises as :func:`require_columns` does."""
        rows, unknown = _laid_out(frame, dataset, config, name)
        return cls(name, rows, digest, unknown_channels=unknown)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An unreadable file among several; the others are read nevertheless."""

    name: str
    error: ForecastError


def digest_of(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's names, types and values in order, independent of its memory layout."""
    found = hashlib.sha256()
    for part in frame.iter_slices(1 << 16):
        # Parquet is the only format that does not store the memory behind missing values.
        part.write_parquet(kept := io.BytesIO(), compression="uncompressed", statistics=False)
        found.update(kept.getbuffer())
    return found.hexdigest()


def used_columns(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the source's columns that a data set reads."""
    source = config.source
    keys = (config.time, config.series, source.version, source.cursor if isinstance(source, SqlSource) else "")
    return tuple(dict.fromkeys(name for name in (*keys, *value_columns(config), *_channel_column(config)) if name))


def value_columns(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the source's columns that hold values of channels."""
    if config.source.layout is Layout.LONG:
        return (config.source.value,)
    return tuple(channel.column or name for name, channel in config.channels.items())


def require_columns(present: Iterable[str], config: DatasetConfig, source: str) -> None:
    """Raise ``ingest.missing_column``, with the nearest name, if a column that the data set reads is missing.

    A partial source needs only one of its channels.
    """
    present, values = list(present), value_columns(config)
    may_lack = config.source.partial and any(name in present for name in values)
    for wanted in used_columns(config):
        if wanted not in present and not (may_lack and wanted in values):
            raise DataError(
                "ingest.missing_column",
                f'"{source}" has no column "{wanted}"',
                nearest(wanted, present) + " (set it in the config file)",
            )


def headers(names: Iterable[str], source: str) -> list[str]:
    """Return column names without surrounding spaces; raises ``source.doubled_column`` if two become equal.

    >>> headers([" time", "load "], "rows.csv")
    ['time', 'load']
    """
    stripped = [name.strip() for name in names]
    for name in stripped:
        if name and stripped.count(name) > 1:
            raise DataError(
                "source.doubled_column", f'"{source}" has several columns called "{name}"', "rename or remove one"
            )
    return stripped


def _channel_column(config: DatasetConfig) -> tuple[str, ...]:
    return (config.source.channel,) if config.source.layout is Layout.LONG else ()


def _laid_out(frame: pl.DataFrame, dataset: str, config: DatasetConfig, source: str) -> Wide:
    frame = frame.rename(dict(zip(frame.columns, headers(frame.columns, source), strict=True)))
    require_columns(frame.columns, config, source)
    # Empty lines, as at the end of many exports, count as row numbers but are no rows.
    present = [name for name in used_columns(config) if name in frame.columns]
    is_row = pl.any_horizontal(pl.col(present).is_not_null())
    series = pl.col(config.series) if config.series else pl.lit(dataset)
    columns = [pl.int_range(1, pl.len() + 1).alias("row"), series.alias("series"), pl.col(config.time).alias("time")]
    if config.source.version:
        columns.append(pl.col(config.source.version).alias("version"))
    if config.source.layout is Layout.LONG:
        columns += [pl.col(config.source.channel).alias("channel"), pl.col(config.source.value).alias("value")]
        return _widened(_kept(frame.select(is_row.alias(_IS_ROW), *columns)), config)
    nothing = pl.lit(None, pl.Float64)  # a partial source may lack channels
    sources = {name: channel.column or name for name, channel in config.channels.items()}
    columns += [(pl.col(one) if one in present else nothing).alias(name) for name, one in sources.items()]
    return _kept(frame.select(is_row.alias(_IS_ROW), *columns)), ()


def _kept(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(_IS_ROW).drop(_IS_ROW)


def _widened(long: pl.DataFrame, config: DatasetConfig) -> Wide:
    """Pivot a row per value to a row per key.

    A key with several values of a channel becomes several rows, in order: the n-th row has the n-th value of each
    channel, or its last one if there are fewer. So a repeated value yields equal rows, and a conflicting value yields
    rows that differ only there.
    """
    #   time   channel  value            time   load  price
    #   00:00  load      4.0             00:00   4.0    9.0
    #   00:00  price     9.0      ->     00:00   5.0    9.0    load conflicts: its second value, price repeated
    #   00:00  load      5.0
    #
    # "=" before the names of channels, because a channel may have the name of a key.
    column_of = {name: f"={channel.column or name}" for name, channel in config.channels.items()}
    columns = list(dict.fromkeys(column_of.values()))
    channel = long["channel"].cast(pl.String).str.strip_chars()
    long = long.with_columns(channel="=" + channel)
    known = long["channel"].is_in(columns).fill_null(value=False)
    unknown = tuple(channel.filter(~known).fill_null("").unique().sort())
    long = long.filter(known)
    keys = [name for name in ("series", "time", "version") if name in long.columns]
    long = long.with_columns(__place=pl.int_range(pl.len(), dtype=pl.UInt32), __nth=pl.lit(0))
    places = _pivoted(long, keys, columns)
    if places.select(pl.sum_horizontal(pl.col(columns).count())).item() < len(long):
        # Some key has a channel twice. This path takes several times as long, so it runs only then.
        nth = pl.int_range(pl.len()).over(*keys, "channel")
        places = _pivoted(long.with_columns(__nth=nth), keys, columns)
        places = places.with_columns(pl.col(columns).forward_fill().over(keys, order_by="__nth"))
    values = [long["value"].gather(places[column]).alias(name) for name, column in column_of.items()]
    return places.select(long["row"].gather(places["__first"]), *keys, *values), unknown


def _pivoted(long: pl.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Return the row number of each value by key, count and channel, in the order of their first values."""
    wide = long.pivot(
        "channel", on_columns=columns, index=[*keys, "__nth"], values="__place", aggregate_function="first"
    )
    return wide.with_columns(__first=pl.min_horizontal(columns)).sort("__first")
