"""Checks over a whole series: its step, flat lines, spikes, level jumps, empty channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from forecast.config.channels import Channel
from forecast.config.dataset import DatasetConfig
from pipelines.ingestion.checked_batch import CheckedBatch

_FEWEST_STEPS = 3
_FEWEST_SEASONS = 12
_LEVEL = 5
_RARE = 0.99

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


def check_series(batch: CheckedBatch, config: DatasetConfig, *, is_whole: bool = True) -> None:
    """Check the series of a batch whose rows are sorted by key and unique.

    ``is_whole`` says that the batch has all rows of its source: then its step and empty channels are checked too.
    """
    if batch.rows.is_empty():
        return
    empty = [name for name in config.channels if batch.rows[name].null_count() == len(batch.rows)]
    if is_whole:
        _check_frequency(batch, config)
        if empty:
            batch.report("empty_channel", len(empty), tuple(empty[:3]))
    # Future covariates such as plans and prices may stay flat and jump.
    _check_shapes(batch, config, [name for name in config.channels if name not in {*empty, *config.future_covariates}])


def _check_shapes(batch: CheckedBatch, config: DatasetConfig, names: Sequence[str]) -> None:
    parts = list(_parts(batch.rows))
    flat: dict[str, pl.Expr] = {}
    spikes: dict[str, pl.Expr] = {}
    jumps: list[str] = []
    for name in names:
        channel, values = config.channels[name], batch.rows[name].to_numpy()
        length = channel.flat_after or max(2 * config.season, _FEWEST_STEPS)
        for found, parts_of_mask in (
            (flat, [flat_line(values[part], channel, length) for part in parts]),
            (spikes, [spike(values[part], channel.spike) for part in parts]),
        ):
            mask = np.concatenate(parts_of_mask)
            if mask.any():
                found[name] = pl.lit(pl.Series(mask))
        for part in parts:
            at = level_jump(values[part], config.season, channel.jump)
            if at is not None:
                place = batch.rows.row(part.start + at, named=True)
                jumps.append(f"{place['series']} {place['time']:%Y-%m-%d %H:%M} {name}")
    batch.flag_values("flat_line", flat)
    batch.flag_values("spike", spikes)
    if jumps:
        batch.report("level_jump", len(jumps), tuple(jumps[:3]))


def flat_line(values: Values, channel: Channel, length: int) -> Mask:
    """Mask the values [T] in runs of at least ``length`` equal ones; runs at the channel's bounds are valid.

    >>> flat_line(np.asarray([1.0, 5.0, 5.0, 5.0, 2.0]), Channel(role="past"), 3).tolist()
    [False, True, True, True, False]
    """
    if len(values) < length:
        return np.zeros(len(values), dtype=bool)
    begins = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))  # NaN differs from itself
    lengths = np.diff(np.append(begins, len(values)))
    at = values[begins]
    is_flat = (lengths >= length) & (at != channel.lower) & (at != channel.upper)
    return np.repeat(is_flat, lengths)


def spike(values: Values, factor: float) -> Mask:
    """Mask the values [T] that differ from both neighbours, in one direction, by more than ``factor`` large steps.

    A large step is the 99% quantile of the steps that are not zero, so that heavy tails are no spikes.

    >>> spike(np.asarray([1.0, 2.0, 1.0, 2.0, 999.0, 1.0, 2.0] * 40), 0.5).sum().item()
    40
    """
    mask = np.zeros(len(values), dtype=bool)
    steps = np.diff(values)
    sizes = np.abs(steps)
    real = sizes[sizes > 0]
    if len(real) < _FEWEST_STEPS:
        return mask
    usual = np.quantile(real, _RARE)
    is_far = sizes > factor * usual
    if is_far.any():
        mask[1:-1] = is_far[:-1] & is_far[1:] & (steps[:-1] * steps[1:] < 0)
    return mask


def level_jump(values: Values, season: int, factor: float) -> int | None:
    """Return the step of the largest level jump of a series [T], or ``None``.

    A level is the median of the means of five seasons, which a short disturbance does not change. A jump is a
    difference between neighbouring levels of more than ``factor`` times the median difference.

    >>> values = np.concatenate([np.arange(40.0) % 4, 100 + np.arange(40.0) % 4]) + 0.1 * np.repeat(range(20), 4)
    >>> level_jump(values, season=4, factor=5.0)
    40
    """
    seasons = len(values) // season
    if seasons < _FEWEST_SEASONS:
        return None
    blocks = values[: seasons * season].reshape(seasons, season)
    known = np.isfinite(blocks).sum(axis=1)
    means = np.where(known > 0, np.nansum(blocks, axis=1) / np.maximum(known, 1), np.nan)
    levels = np.median(sliding_window_view(means, _LEVEL), axis=1)
    differences = np.abs(levels[_LEVEL:] - levels[:-_LEVEL])
    seen = differences[np.isfinite(differences)]
    if len(seen) < _FEWEST_STEPS or not seen.any():
        return None
    largest = np.nanmax(differences)
    if largest <= factor * np.median(seen):
        return None
    # Medians show one jump over several seasons before and after it: it lies in their middle.
    near = np.flatnonzero(differences > 0.9 * largest)
    return (int(near[len(near) // 2]) + _LEVEL) * season


def _parts(rows: pl.DataFrame) -> Iterator[slice]:
    """Yield the slice of each series in rows that are sorted by series."""
    is_first = rows.select((pl.col("series") != pl.col("series").shift(1)).fill_null(value=True)).to_series()
    begins = [*is_first.arg_true().to_list(), len(rows)]
    for begin, end in pairwise(begins):
        yield slice(begin, end)


def _check_frequency(batch: CheckedBatch, config: DatasetConfig) -> None:
    if config.resamples:
        return
    same = pl.col("series") == pl.col("series").shift(1)
    steps = (
        batch.rows.lazy()
        .select("series", step=pl.when(same).then(pl.col("time").diff()))
        .drop_nulls()
        .group_by("series")
        .agg(step=pl.col("step").mode().min(), count=pl.len())
        .filter((pl.col("count") >= _FEWEST_STEPS) & (pl.col("step") != config.step))
        .sort("series")
        .collect()
    )
    if len(steps):
        first = tuple(f"{name} every {_duration(step)}" for name, step, _ in steps.head(3).rows())
        batch.report("frequency", len(steps), first)


def _duration(step: timedelta) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if step.total_seconds() % length == 0:
            return f"{int(step.total_seconds() // length)}{unit}"
    return f"{step.total_seconds():g}s"
