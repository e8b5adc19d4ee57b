"""What every source gives: batches of rows in one shape, whatever the format and the layout they came in."""

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
"""Rows in the shape of a batch, and the names of channels that were left out."""

_IS_ROW = "__is_row"


@dataclass(frozen=True, slots=True)
class Content:
    """Something to read: a file on disk, or bytes that were sent."""

    name: str
    """How messages call it."""
    data: Path | bytes

    def open(self) -> BinaryIO:
        """Open it for reading."""
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")

    def starts_with(self, magic: bytes) -> bool:
        """Whether these are its first bytes."""
        with self.open() as opened:
            return opened.read(len(magic)) == magic

    def because(self, error: BaseException) -> str:
        """Return what a library says of it, in brackets; nothing of what was sent, which messages never repeat."""
        return f" ({first_line(error)})" if isinstance(self.data, Path) else ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that came in together."""

    name: str
    """Where they came from, for messages: a file's name, ``table readings``."""
    rows: pl.DataFrame
    """``row`` (Int64, the number of the data row in its source, from 1), ``series``, ``time``, ``version`` if the job
    names one, and a column per channel. Values are as they came: text or typed, nothing converted."""
    digest: str
    """SHA-256 of what was read."""
    cursor: str | None = None
    """sql: what to give next time."""
    unknown_channels: tuple[str, ...] = field(default=())
    """long: names of channels that the job file does not know, whose rows were left out."""

    @classmethod
    def of(cls, frame: pl.DataFrame, dataset: str, config: DatasetConfig, name: str, digest: str) -> Self:
        """Lay out a frame as it came from a file, a database or a caller; see :func:`require_columns` for errors."""
        rows, unknown = _laid_out(frame, dataset, config, name)
        return cls(name, rows, digest, unknown_channels=unknown)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One file of several that cannot be read; the others come all the same."""

    name: str
    error: ForecastError


def digest_of(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's names, types and values in order, however memory holds them."""
    found = hashlib.sha256()
    for part in frame.iter_slices(1 << 16):
        # Of all formats Parquet alone leaves out what memory holds in the places of missing values.
        part.write_parquet(kept := io.BytesIO(), compression="uncompressed", statistics=False)
        found.update(kept.getbuffer())
    return found.hexdigest()


def used_columns(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the source's columns that a job reads."""
    source = config.source
    keys = (config.time, config.series, source.version, source.cursor if isinstance(source, SqlSource) else "")
    return tuple(dict.fromkeys(name for name in (*keys, *value_columns(config), *_channel_column(config)) if name))


def value_columns(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the source's columns that hold values of channels."""
    if config.source.layout is Layout.LONG:
        return (config.source.value,)
    return tuple(channel.column or name for name, channel in config.channels.items())


def require_columns(present: Iterable[str], config: DatasetConfig, source: str) -> None:
    """Raise ``ingest.missing_column``, naming the nearest column, if one is missing that the job reads.

    A partial source needs only one of its channels.
    """
    present, values = list(present), value_columns(config)
    may_lack = config.source.partial and any(name in present for name in values)
    for wanted in used_columns(config):
        if wanted not in present and not (may_lack and wanted in values):
            raise DataError(
                "ingest.missing_column",
                f'"{source}" has no column "{wanted}"',
                nearest(wanted, present) + " (set it in the job file)",
            )


def headers(names: Iterable[str], source: str) -> list[str]:
    """Return column names without spaces around them; raises ``source.doubled_column`` if two are then the same."""
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
    # Lines with nothing in them, such as those at the end of many exports, are counted but are no rows.
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
    """Turn a row per value into a row per key.

    A key whose channel comes several times becomes several rows, in order: the n-th has the n-th value of each channel,
    or its last if there are fewer. So a repeated value makes rows that repeat each other, and a conflicting one makes
    rows that differ in it alone.
    """
    # A sign before their names, as a channel may be called like a key.
    told_as = {name: f"={channel.column or name}" for name, channel in config.channels.items()}
    columns = list(dict.fromkeys(told_as.values()))
    message = long["channel"].cast(pl.String).str.strip_chars()
    long = long.with_columns(channel="=" + message)
    known = long["channel"].is_in(columns).fill_null(value=False)
    unknown = tuple(message.filter(~known).fill_null("").unique().sort())
    long = long.filter(known)
    keys = [name for name in ("series", "time", "version") if name in long.columns]
    long = long.with_columns(__place=pl.int_range(pl.len(), dtype=pl.UInt32), __turn=pl.lit(0))
    places = _pivoted(long, keys, columns)
    if places.select(pl.sum_horizontal(pl.col(columns).count())).item() < len(long):
        # Only now, because it takes several times as long: some row has no place of its own.
        turn = pl.int_range(pl.len()).over(*keys, "channel")
        places = _pivoted(long.with_columns(__turn=turn), keys, columns)
        places = places.with_columns(pl.col(columns).forward_fill().over(keys, order_by="__turn"))
    values = [long["value"].gather(places[column]).alias(name) for name, column in told_as.items()]
    return places.select(long["row"].gather(places["__first"]), *keys, *values), unknown


def _pivoted(long: pl.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Return the place of each value by key, turn and channel, in the order of their first values."""
    wide = long.pivot(
        "channel", on_columns=columns, index=[*keys, "__turn"], values="__place", aggregate_function="first"
    )
    return wide.with_columns(__first=pl.min_horizontal(columns)).sort("__first")
