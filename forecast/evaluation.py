"""Evidence: how well a model forecast held-out origins, in numbers that promotion and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from forecast import metrics
from forecast.panel import Array


@dataclass(frozen=True, slots=True)
class Backtest:
    """Forecasts of many origins beside what happened, in original units.

    N windows (origins times series), H steps, C channels, Q quantiles.
    """

    origins: tuple[datetime, ...]
    """[N], first forecast time of each window."""
    series: tuple[str, ...]
    """[N]"""
    actual: Array
    """[N, H, C]; NaN where nothing was observed."""
    mean: Array
    """[N, H, C]"""
    quantiles: Array
    """[N, H, C, Q]"""
    levels: tuple[float, ...]
    deviations: Array
    """[N, C], standard deviation of the training rows: scores in these units can be averaged over channels."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The scores of one model on one set of held-out windows."""

    model_name: str
    model_version: str
    origins_digest: str
    """SHA-256 of the windows that were scored: only equal ones may be compared."""
    windows: int
    pinball: float
    """Scaled: in standard deviations of each channel, averaged over all."""
    coverage: float
    """Share of actual values inside the outermost quantiles."""
    promised_coverage: float
    mae: Mapping[int, float]
    """Scaled mean absolute error of the median up to each horizon."""
    mse: Mapping[int, float]
    """Scaled mean squared error of the mean up to each horizon."""
    channel_mae: Mapping[str, float]
    """In the channel's own unit, up to the longest horizon."""
    pinball_by_lead: tuple[float, ...]
    """Scaled, one value per lead time."""
    is_finite: bool
    channel_coverage: Mapping[str, float] = field(default_factory=dict)
    """As ``coverage``, for each channel alone: bands of one may be too wide while another's are too narrow."""


def score(
    name: str, version: str, digest: str, result: Backtest, channels: Sequence[str], horizons: Sequence[int]
) -> Evidence:
    """Score a backtest; every observed value of every window counts once."""
    median = result.quantiles[..., result.levels.index(0.5)]
    unit = result.deviations[:, None, :]
    loss = metrics.pinball(result.actual, result.quantiles, result.levels) / unit
    actual, scaled_median, scaled_mean = result.actual / unit, median / unit, result.mean / unit
    return Evidence(
        model_name=name,
        model_version=version,
        origins_digest=digest,
        windows=len(result.origins),
        pinball=metrics.observed_mean(loss),
        coverage=metrics.coverage(result.actual, result.quantiles[..., 0], result.quantiles[..., -1]),
        promised_coverage=result.levels[-1] - result.levels[0],
        mae={h: metrics.mean_absolute_error(actual[:, :h], scaled_median[:, :h]) for h in horizons},
        mse={h: metrics.mean_squared_error(actual[:, :h], scaled_mean[:, :h]) for h in horizons},
        channel_mae={
            channel: metrics.mean_absolute_error(result.actual[..., c], median[..., c])
            for c, channel in enumerate(channels)
        },
        pinball_by_lead=tuple(metrics.observed_mean(loss[:, lead]) for lead in range(loss.shape[1])),
        is_finite=bool(np.isfinite(result.quantiles).all() and np.isfinite(result.mean).all()),
        channel_coverage={
            channel: metrics.coverage(result.actual[..., c], result.quantiles[..., c, 0], result.quantiles[..., c, -1])
            for c, channel in enumerate(channels)
        },
    )
