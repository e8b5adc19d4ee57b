"""Covariates that are known for any time: the calendar and holidays. The same code for training and for serving."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecast.holidays import holiday_calendar
from forecast.jobs import DatasetJob

FUTURE_FEATURES = (
    "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "yearday_sin", "yearday_cos", "weekend", "holiday",
)  # fmt: skip
"""Names of the known-future covariates, in the order in which every model gets them; each lies in [-1, 1]."""


def known_future(start: datetime, step: timedelta, count: int, job: DatasetJob) -> NDArray[np.float64]:
    """Return the known-future covariates of ``count`` steps from ``start``: [count, len(FUTURE_FEATURES)].

    Hours, weekdays and holidays are those of the data set's own zone; steps of days have no hours.
    """
    local = pl.datetime_range(start, start + step * (count - 1), step, eager=True).dt.convert_time_zone(job.tz.key)
    frame = pl.DataFrame({"t": local})
    hour = pl.col("t").dt.hour() + pl.col("t").dt.minute() / 60
    weekday = pl.col("t").dt.weekday() - 1 + hour / 24
    yearday = pl.col("t").dt.ordinal_day() - 1
    dates = _holidays(job.holidays, local[0].year, local[-1].year)
    columns = [
        *_circle(hour, 24),
        *_circle(weekday, 7),
        *_circle(yearday, 365.25),
        (pl.col("t").dt.weekday() >= 6).cast(pl.Float64),
        pl.col("t").dt.date().is_in(dates).cast(pl.Float64),
    ]
    return frame.select(column.alias(name) for name, column in zip(FUTURE_FEATURES, columns, strict=True)).to_numpy()


def _circle(value: pl.Expr, period: float) -> tuple[pl.Expr, pl.Expr]:
    angle = 2 * math.pi / period * value
    return angle.sin(), angle.cos()


@lru_cache(maxsize=64)
def _holidays(place: str, first_year: int, last_year: int) -> tuple[date, ...]:
    return holiday_calendar(place, range(first_year, last_year + 1))
