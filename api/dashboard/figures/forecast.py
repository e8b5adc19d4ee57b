"""Data of the forecast figure, as JSON for the page's script: history, median, bands, and earlier issue times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from api.dashboard.figures.downsample import downsample
from api.dashboard.formats import number, short
from api.state.issued import IssuedForecast
from forecast.config.dataset import DatasetConfig
from forecast.ledger.issuance import Issuance
from forecast.panel import Array, Panel

MOST_POINTS = 1500
_TWO_WEEKS = timedelta(days=14)
_BAND = 0.8


@dataclass(frozen=True, slots=True)
class Line:
    """One series and channel of a forecast, up to ``horizon`` steps."""

    forecast: IssuedForecast
    series: int
    channel: int
    horizon: int

    @property
    def quantiles(self) -> Array:
        """Quantiles [H, Q]."""
        return self.forecast.quantiles[self.series, self.channel, : self.horizon]

    @property
    def median(self) -> Array:
        """Median [H]."""
        return self.quantiles[:, self.forecast.issuance.quantiles.index(0.5)]

    @property
    def band(self) -> tuple[Array, Array, float]:
        """The edges [H] of the band whose width is nearest to 80%, and that width."""
        low, high = _band(self.forecast.issuance.quantiles)
        levels = self.forecast.issuance.quantiles
        return self.quantiles[:, low], self.quantiles[:, high], round(levels[high] - levels[low], 10)

    def times(self, config: DatasetConfig) -> list[datetime]:
        """Return the wall times of the steps."""
        return [time.astimezone(config.tz) for time in self.forecast.times(self.horizon)]


@dataclass(frozen=True, slots=True)
class PlottedStep:
    """One step of a forecast, formatted as a row of the page's table."""

    time: str
    lower: str
    median: str
    upper: str
    actual: str


def rows(line: Line, panel: Panel, config: DatasetConfig, most: int) -> tuple[PlottedStep, ...]:
    """Return the first ``most`` steps as rows of the page's table."""
    lower, upper, _ = line.band
    observations = observations_of(line, panel, config)
    numbers = (lower.tolist(), line.median.tolist(), upper.tolist(), observations.tolist())
    steps = list(zip(line.times(config), *numbers, strict=True))[:most]
    return tuple(
        PlottedStep(
            short(time, config.tz), number(low), number(mid), number(high), "" if np.isnan(value) else number(value)
        )
        for time, low, mid, high, value in steps
    )


def observations_of(line: Line, panel: Panel, config: DatasetConfig) -> Array:
    """Return the observations of a forecast's steps, [H]; NaN where a value is missing or lies in the future."""
    known = observed(panel, line.forecast.series[line.series], config.targets.index(_channel(line)))
    origin = panel.index(line.forecast.issuance.origin)
    values = np.full(line.horizon, np.nan)
    seen = known[max(origin, 0) : origin + line.horizon]
    values[: len(seen)] = seen
    return values


def document(line: Line, panel: Panel, config: DatasetConfig) -> dict[str, Any]:
    """Return a forecast as the page's script draws it; the script makes the same form from REST responses."""
    issuance = line.forecast.issuance
    return {
        "id": issuance.forecast_id,
        "issued": short(issuance.issued_at, config.tz),
        "model": issuance.model_name,
        "trained": issuance.horizon,
        "levels": list(issuance.quantiles),
        "times": [wall(time, config) for time in line.forecast.times(line.horizon)],
        "quantiles": [rounded(line.quantiles[:, level]) for level in range(len(issuance.quantiles))],
        "history": history(
            panel, config, line.forecast.series[line.series], _channel(line), *_reach(line, config), MOST_POINTS
        ),
    }


def history(
    panel: Panel, config: DatasetConfig, series: str, channel: str, start: datetime, end: datetime, most: int
) -> dict[str, Any]:
    """Return the observations in [start, end), downsampled to about ``most`` points; gaps are null."""
    first, last = max(panel.index(start), 0), min(max(panel.index(end), 0), panel.steps)
    values = observed(panel, series, config.targets.index(channel))[first:last]
    kept = downsample(values, most)
    return {
        "times": [wall(panel.time(first + int(place)), config) for place in kept],
        "values": rounded(values[kept]),
        "downsampled": len(kept) < len(values),
    }


def observed(panel: Panel, series: str, channel: int) -> Array:
    """Return the observations of one target, [T]; filled values are NaN."""
    row = panel.series.index(series)
    return np.where(panel.observed[row, :, channel], panel.targets[row, :, channel], np.nan)


def newest_by_model(issuances: Sequence[Issuance]) -> list[Issuance]:
    """Return the latest forecast of each model, in the given order (newest first)."""
    return list({item.model_version: item for item in reversed(issuances)}.values())[::-1]


def wall(time: datetime, config: DatasetConfig) -> str:
    """Format a time for the figure's axis: wall time of the data set's zone."""
    return time.astimezone(config.tz).strftime("%Y-%m-%dT%H:%M:%S")


def rounded(values: Array) -> list[float | None]:
    """Return numbers rounded to six digits, the precision of a figure; NaN becomes null."""
    return [None if value != value else float(f"{value:.6g}") for value in values.tolist()]  # noqa: PLR0124 - NaN


def _reach(line: Line, config: DatasetConfig) -> tuple[datetime, datetime]:
    origin = line.forecast.issuance.origin
    reach = max(_TWO_WEEKS, config.step * line.forecast.issuance.horizon)
    return origin - reach, origin + 2 * max(reach, config.step * line.horizon)


def _channel(line: Line) -> str:
    return line.forecast.channels[line.channel]


def _band(levels: Sequence[float]) -> tuple[int, int]:
    """Return the indices of the symmetric pair of levels whose width is nearest to 80%."""
    pairs = [(place, len(levels) - 1 - place) for place in range((len(levels) + 1) // 2)]
    return min(pairs, key=lambda pair: abs(levels[pair[1]] - levels[pair[0]] - _BAND))
