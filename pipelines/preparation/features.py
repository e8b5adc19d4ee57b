"""Future covariates: calendar, holidays, and the channels that the user marks as future.

Training, backtests and serving use the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecast.config.dataset import DatasetConfig
from forecast.holidays import holiday_calendar
from forecast.panel import Array, Panel
from pipelines.preparation.fill import filled

FUTURE_FEATURES = (
    "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "yearday_sin", "yearday_cos", "weekend", "holiday",
)  # fmt: skip
"""Names of the calendar covariates in the order of every model's input; each lies in [-1, 1]."""

Calendar = Callable[[datetime, timedelta, int, DatasetConfig], NDArray[np.float64]]
"""A function that returns calendar covariates, such as :func:`known_future` or its cache."""


def future_names(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of all future covariates in the order of models: the calendar's, then the user's."""
    return (*FUTURE_FEATURES, *config.future_covariates)


def static_names(config: DatasetConfig) -> tuple[str, ...]:
    """Return the names of the static covariates: those of the first series that has any in the config file."""
    return tuple(next(iter(config.statics.values()), {}))


def known_future(start: datetime, step: timedelta, count: int, config: DatasetConfig) -> NDArray[np.float64]:
    """Return the calendar covariates of ``count`` steps from ``start``: [count, len(FUTURE_FEATURES)].

    Hours, weekdays and holidays are those of the data set's zone; daily steps have no hours.
    """
    local = pl.datetime_range(start, start + step * (count - 1), step, eager=True).dt.convert_time_zone(config.tz.key)
    frame = pl.DataFrame({"t": local})
    hour = pl.col("t").dt.hour() + pl.col("t").dt.minute() / 60
    weekday = pl.col("t").dt.weekday() - 1 + hour / 24
    yearday = pl.col("t").dt.ordinal_day() - 1
    dates = _holidays(config.holidays, local[0].year, local[-1].year)
    columns = [
        *_circle(hour, 24),
        *_circle(weekday, 7),
        *_circle(yearday, 365.25),
        (pl.col("t").dt.weekday() >= 6).cast(pl.Float64),
        pl.col("t").dt.date().is_in(dates).cast(pl.Float64),
    ]
    return frame.select(column.alias(name) for name, column in zip(FUTURE_FEATURES, columns, strict=True)).to_numpy()


def given_future(panel: Panel, config: DatasetConfig, last: int) -> Array:
    """Return the user's future covariates of rows [0, last) in their own units: [S, last, K].

    Rows from ``last`` on have no influence. Rows beyond the newest stored one are a gap: filled by each channel's
    policy up to its limit, NaN otherwise.
    """
    stored = min(last, panel.future.shape[1])
    values, observed = panel.future[:, :stored], panel.future_observed[:, :stored]
    if last == stored and observed[:, -1:].all():
        return values
    ahead = ((0, 0), (0, last - stored), (0, 0))
    channels = [config.channels[name] for name in config.future_covariates]
    return filled(np.pad(values, ahead), np.pad(observed, ahead), channels, config.season)


def future_covariates(
    panel: Panel, config: DatasetConfig, first: int, last: int, calendar: Calendar = known_future
) -> Array:
    """Return all future covariates of rows [first, last), in the order of :func:`future_names`: [S, T, F].

    The calendar's lie in [-1, 1]; the user's are in their own units and as known before row ``last``.
    """
    of_calendar = calendar(panel.time(first), panel.step, last - first, config)
    shared: Array = np.broadcast_to(of_calendar, (len(panel.series), *of_calendar.shape))
    if not config.future_covariates:
        return shared
    return np.concatenate([shared, given_future(panel, config, last)[:, first:]], axis=2)


def _circle(value: pl.Expr, period: float) -> tuple[pl.Expr, pl.Expr]:
    angle = 2 * math.pi / period * value
    return angle.sin(), angle.cos()


@lru_cache(maxsize=64)
def _holidays(place: str, first_year: int, last_year: int) -> tuple[date, ...]:
    return holiday_calendar(place, range(first_year, last_year + 1))
