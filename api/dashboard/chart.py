"""The figure of the page: history, forecast with its band, and what came true since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from api.issued import IssuedForecast
from forecast.figures import fan
from forecast.jobs import DatasetJob
from forecast.panel import Array, Panel

_TWO_WEEKS = timedelta(days=14)
_BAND = 0.8


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a forecast, as a row of the page's table."""

    time: str
    lower: str
    median: str
    upper: str
    actual: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the page shows of one series and channel."""

    figure: str
    """plotly's JSON."""
    band: str
    steps: tuple[Step, ...]
    came_true: int
    """Steps whose actual value is known by now."""


def draw(
    forecast: IssuedForecast, panel: Panel, job: DatasetJob, series: int, channel: int, horizon: int, table_steps: int
) -> Chart:
    """Draw the first ``horizon`` steps of a forecast behind two weeks of history; what was not observed stays a gap."""
    name = forecast.channels[channel]
    times = [time.astimezone(job.tz) for time in forecast.times(horizon)]
    low, high = _band(forecast.issuance.quantiles)
    lower, upper = (
        forecast.quantiles[series, channel, :horizon, low],
        forecast.quantiles[series, channel, :horizon, high],
    )
    median = forecast.quantiles[series, channel, :horizon, forecast.issuance.quantiles.index(0.5)]
    origin = panel.index(forecast.issuance.origin)
    reach = max(_TWO_WEEKS // job.step, forecast.issuance.horizon)
    known = _observed(panel, forecast.series[series], job.targets.index(name))
    first = max(origin - reach, 0)
    truth = known[origin : origin + horizon]
    width = forecast.issuance.quantiles[high] - forecast.issuance.quantiles[low]
    band = f"{width:.0%} band" if high > low else "median alone"
    figure = fan(
        "",
        job.channels[name].unit,
        ([panel.time(i).astimezone(job.tz) for i in range(first, origin)], _holes(known[first:origin])),
        times,
        median.tolist(),
        lower.tolist(),
        upper.tolist(),
        band,
        (times[: len(truth)], _holes(truth)) if np.isfinite(truth).any() else None,
    )
    if horizon > forecast.issuance.horizon:
        figure.add_vrect(
            x0=times[forecast.issuance.horizon], x1=times[-1], line_width=0, fillcolor="rgba(128,128,128,0.12)",
            annotation_text="recursive", annotation_position="top left",
        )  # fmt: skip
    figure.update_layout(title=None, height=None, autosize=True, margin={"l": 48, "r": 12, "t": 28, "b": 36})
    count = min(horizon, table_steps)
    steps = tuple(
        Step(
            f"{times[i]:%a %d %b %H:%M}",
            f"{lower[i]:.1f}",
            f"{median[i]:.1f}",
            f"{upper[i]:.1f}",
            f"{truth[i]:.1f}" if i < len(truth) and np.isfinite(truth[i]) else "",
        )
        for i in range(count)
    )
    return Chart(str(figure.to_json()), band, steps, int(np.isfinite(truth).sum()))


def _band(levels: Sequence[float]) -> tuple[int, int]:
    """Return the places of the symmetric pair of levels whose width is nearest to 80%."""
    pairs = [(place, len(levels) - 1 - place) for place in range((len(levels) + 1) // 2)]
    return min(pairs, key=lambda pair: abs(levels[pair[1]] - levels[pair[0]] - _BAND))


def _observed(panel: Panel, series: str, channel: int) -> Array:
    """Return what was observed of one target, [T]; a value that was filled is NaN."""
    row = panel.series.index(series)
    return np.where(panel.observed[row, :, channel], panel.targets[row, :, channel], np.nan)


def _holes(values: Array) -> list[float | None]:
    return [None if hole else value for hole, value in zip(np.isnan(values).tolist(), values.tolist(), strict=True)]


def span(steps: int, step: timedelta) -> str:
    """Write how long some steps are.

    >>> span(168, timedelta(hours=1)), span(5, timedelta(minutes=15)), span(24, timedelta(hours=1))
    ('7 days', '75 minutes', '1 day')
    """
    total = step * steps
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if total >= unit and total % unit == timedelta(0):
            count = total // unit
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{total.total_seconds():g} seconds"


def ago(age: timedelta) -> str:
    """Write an age in its largest unit.

    >>> ago(timedelta(minutes=90)), ago(timedelta(days=3)), ago(timedelta(seconds=5))
    ('1 h 30 min', '3 d 0 h', '0 min')
    """
    minutes = int(age.total_seconds()) // 60
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def told(time: datetime, job: DatasetJob) -> str:
    """Write a time in the data set's zone."""
    return f"{time.astimezone(job.tz):%a %d %b %Y %H:%M %Z}"
