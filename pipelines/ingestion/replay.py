"""A replay releases the rows of a file by an accelerated clock, as if they were measured now."""

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
    """Return the rows of a file that have happened, and whether that is all of them."""
    instants = coarse_instants(batch, config)
    kept = batch.rows.filter(instants.is_null() | (instants <= now))
    return dataclasses.replace(batch, rows=kept), len(kept) == len(batch.rows)


def released(rows: pl.DataFrame, config: DatasetConfig, start: datetime, now: datetime) -> pl.DataFrame:
    """Return the rows that are out: each once its step is over, one in fifty late, as in a real feed."""
    late = pl.struct("series", "time").hash(seed=7) % _LATE_ONE_IN == 0  # always the same ones
    ready = pl.col("time") + config.step
    is_history = ready <= start
    return rows.filter(pl.when(late & ~is_history).then(ready.dt.offset_by(_LATENESS)).otherwise(ready) <= now)
