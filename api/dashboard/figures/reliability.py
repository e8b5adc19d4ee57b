"""Calibration and errors by hour and weekday, computed from issued forecasts: the ledger's sums do not hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from api.state.issued import IssuedForecast, read_issued
from api.state.lru import Recent
from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.ledger.issuance import Issuance
from forecast.panel import Array, Panel

MOST_FORECASTS = 24
_KEPT = 64


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration and errors of some forecasts of one channel, over all series; Q levels."""

    forecasts: int
    count: int
    """Number of observed values."""
    levels: tuple[float, ...]
    below: tuple[float, ...]
    """[Q], share of values below each quantile; ideally equal to the level."""
    by_hour: tuple[float | None, ...]
    """[24], mean absolute error of the median by hour of the day, in the channel's unit."""
    by_weekday: tuple[float | None, ...]
    """[7], from Monday."""


class Reliabilities:
    """Compares issued forecasts with observations; results are cached."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._known: Recent[tuple[object, ...], Reliability] = Recent(_KEPT)

    def of(self, dataset: str, channel: str, since: datetime | None, version: int, panel: Panel) -> Reliability | None:
        """Return the reliability of one channel's forecasts; ``None`` if none of their steps is observed yet."""
        issuances = [
            item for item in self._installation.ledger.issuances.newest(dataset, 1000)
            if item.origin < panel.end and (since is None or item.origin >= since)
        ]  # fmt: skip
        if not issuances:
            return None
        chosen = [issuances[place] for place in _spread(len(issuances), MOST_FORECASTS)]
        key = (dataset, channel, version, tuple(item.forecast_id for item in chosen))
        found = self._known.get(key)
        if found is None:
            found = self._compared(chosen, channel, panel)
            if found is not None:
                self._known.keep(key, found, 1)
        return found

    def _compared(self, issuances: Sequence[Issuance], channel: str, panel: Panel) -> Reliability | None:
        config = self._installation.config.datasets[issuances[0].dataset]
        levels = issuances[0].quantiles
        below, within, errors, hours, weekdays, forecasts = [], [], [], [], [], 0
        for issuance in issuances:
            if issuance.quantiles != levels:
                continue
            try:
                forecast = read_issued(issuance, self._installation)
            except ForecastError:  # damage is reported where the forecast is served; here it is skipped
                continue
            if channel not in forecast.channels:
                continue
            truth = _truth(forecast, channel, panel, config)
            seen = np.isfinite(truth)
            if not seen.any():
                continue
            forecasts += 1
            quantiles = forecast.quantiles[:, forecast.channels.index(channel), : truth.shape[1]]
            below.append((truth[..., None] < quantiles)[seen])
            within.append((truth[..., None] <= quantiles)[seen])
            errors.append(np.abs(truth - quantiles[..., levels.index(0.5)])[seen])
            times = [time.astimezone(config.tz) for time in forecast.times(truth.shape[1])]
            hours.append(np.broadcast_to([time.hour for time in times], truth.shape)[seen])
            weekdays.append(np.broadcast_to([time.weekday() for time in times], truth.shape)[seen])
        if not errors:
            return None
        error = np.concatenate(errors)
        return Reliability(
            forecasts,
            len(error),
            levels,
            _shares(np.concatenate(below), np.concatenate(within), levels),
            _means(error, np.concatenate(hours), 24),
            _means(error, np.concatenate(weekdays), 7),
        )


def _truth(forecast: IssuedForecast, channel: str, panel: Panel, config: DatasetConfig) -> Array:
    """Return the observations of a forecast's steps up to the newest row, [S, H']; NaN where a value is missing."""
    first = panel.index(forecast.issuance.origin)
    column = config.targets.index(channel)
    rows = [panel.series.index(name) for name in forecast.series]
    part = slice(first, min(first + forecast.issuance.horizon, panel.steps))
    return np.where(panel.observed[rows, part, column], panel.targets[rows, part, column], np.nan)


def _shares(below: np.ndarray, within: np.ndarray, levels: Sequence[float]) -> tuple[float, ...]:
    """Return the share of values below each quantile.

    If many values equal the quantile, such as zeros at a lower bound, any share between "below" and "not above" is
    correct; the one nearest to the level is returned.
    """
    return tuple(np.clip(levels, below.mean(axis=0), within.mean(axis=0)).tolist())


def _means(errors: Array, groups: np.ndarray, count: int) -> tuple[float | None, ...]:
    sums = np.bincount(groups, errors, count)
    counts = np.bincount(groups, minlength=count)
    return tuple(None if not many else float(total / many) for total, many in zip(sums, counts, strict=True))


def _spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices, evenly spread from the newest on.

    >>> _spread(3, 5), _spread(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})
