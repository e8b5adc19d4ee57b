"""Replay: release the rows of an old file by an accelerated clock, as if they were measured now."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import polars as pl

from forecast.config.dataset import DatasetConfig
from pipelines.ingestion.row_checks import coarse_instants
from pipelines.sources import Batch

_LATE_ONE_IN = 50
_LATENESS = "3h"


def until_now(batch: Batch, config: DatasetConfig, now: datetime) -> tuple[Batch, bool]:
    """Return the rows of a file up to ``now``, and whether these are all its rows."""
    instants = coarse_instants(batch, config)
    kept = batch.rows.filter(instants.is_null() | (instants <= now))
    return dataclasses.replace(batch, rows=kept), len(kept) == len(batch.rows)


def released(rows: pl.DataFrame, config: DatasetConfig, start: datetime, now: datetime) -> pl.DataFrame:
    """Return the rows released by ``now``: each at the end of its step, one in fifty three hours late, as in feeds."""
    late = pl.struct("series", "time").hash(seed=7) % _LATE_ONE_IN == 0  # deterministic: always the same rows
    ready = pl.col("time") + config.step
    is_history = ready <= start
    return rows.filter(pl.when(late & ~is_history).then(ready.dt.offset_by(_LATENESS)).otherwise(ready) <= now)
