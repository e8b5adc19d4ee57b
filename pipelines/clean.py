"""Repair history by the job file's policy: a regular grid, gaps filled up to a limit, a mark on what was observed."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from forecast.errors import DataError
from forecast.jobs import Channel, DatasetJob
from forecast.lake import TIME
from forecast.panel import Panel
from forecast.vocabulary import Fill


def clean(rows: pl.DataFrame, job: DatasetJob) -> Panel:
    """Put the rows of the lake on one regular grid and fill gaps; rows stay as they are in the lake.

    The grid ends at the newest row of any series: a series whose newest rows are late ends in filled values.
    """
    if rows.is_empty():
        raise DataError("history.empty", "the data set has no rows", 'run "forecast ingest" first')
    first, last = rows["time"].min(), rows["time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):  # pragma: no cover - the lake has a schema
        raise DataError("history.empty", "the data set has no times", 'run "forecast ingest" first')
    times = pl.datetime_range(first, last, job.step, eager=True).cast(TIME).alias("time")
    names = tuple(rows["series"].unique().sort())
    off = rows.filter((pl.col("time") - first).dt.total_microseconds() % int(job.step.total_seconds() * 1e6) != 0)
    if len(off):
        raise DataError(
            "history.off_grid",
            f"{len(off)} rows do not lie a multiple of {job.frequency} after the first, such as {off['time'][0]}",
            "set the frequency of the data in the job file",
        )
    grid = (
        pl.DataFrame({"series": names})
        .join(times.to_frame(), how="cross")
        .join(rows, on=["series", "time"], how="left", maintain_order="left")
    )
    whole = grid.with_columns(_filled(name, channel) for name, channel in job.channels.items())
    shape = (len(names), len(times))

    def cube(frame: pl.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
        return frame.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy().reshape(*shape, len(columns))

    targets = cube(whole, job.targets)
    columns = (*job.targets, *job.past_covariates)
    is_linear = np.asarray([job.channels[name].fill is Fill.LINEAR for name in columns])
    return Panel(
        series=names,
        start=first,
        step=job.step,
        targets=targets,
        past=cube(whole, job.past_covariates),
        observed=np.isfinite(cube(grid, job.targets)),
        filled={name: whole[name].count() - grid[name].count() for name in job.channels},
        interpolated=np.isfinite(cube(whole, columns)) & ~np.isfinite(cube(grid, columns)) & is_linear,
    )


def _filled(name: str, channel: Channel) -> pl.Expr:
    value = pl.col(name)
    if channel.fill is Fill.ZERO:
        repaired = value.fill_null(0.0)
    elif channel.fill is Fill.FORWARD:
        repaired = value.forward_fill().over("series")
    else:
        repaired = value.interpolate().forward_fill().over("series")  # the newest rows have nothing to interpolate to
    # Only gaps of at most `fill_limit` steps are filled, so each missing value must know the length of its gap.
    run = value.is_null().rle_id().over("series")
    is_short = pl.len().over("series", run) <= channel.fill_limit
    return pl.when(value.is_null() & is_short).then(repaired).otherwise(value).alias(name)
