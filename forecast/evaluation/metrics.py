"""Scores of forecasts. A NaN in ``actual`` marks an unobserved value, which no score counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.panel import Array


def observed_mean(losses: Array) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none.

    >>> observed_mean(np.array([1.0, np.nan, 3.0]))
    2.0
    """
    observed = losses[~np.isnan(losses)]
    return float(observed.mean()) if observed.size else float("nan")


def mean_absolute_error(actual: Array, predicted: Array) -> float:
    """Return the mean of |actual - predicted|."""
    return observed_mean(np.abs(actual - predicted))


def pinball_by_level(actual: Array, quantiles: Array, levels: Sequence[float]) -> Array:
    """Return the doubled quantile loss of each level: [...], [..., Q] -> [..., Q].

    Because of the factor 2 the loss at the median is the absolute error, and the mean over many levels approaches the
    CRPS.

    >>> pinball_by_level(np.array(3.0), np.array([1.0, 3.5]), [0.5, 0.75]).tolist()
    [2.0, 0.25]
    """
    error = actual[..., None] - quantiles
    level = np.asarray(levels)
    return np.asarray(2.0 * np.maximum(level * error, (level - 1.0) * error))


def pinball(actual: Array, quantiles: Array, levels: Sequence[float]) -> Array:
    """Return :func:`pinball_by_level` averaged over the levels: [..., Q] -> [...].

    >>> float(pinball(np.array(3.0), np.array([1.0]), [0.5]))
    2.0
    """
    return np.asarray(pinball_by_level(actual, quantiles, levels).mean(axis=-1))


def coverage(actual: Array, lower: Array, upper: Array) -> float:
    """Return the share of actual values within [lower, upper]; nominal for a band from 10% to 90% is 0.8.

    >>> coverage(np.array([1.0, 2.0, np.nan, 9.0]), np.zeros(4), np.full(4, 3.0))
    0.6666666666666666
    """
    seen = np.isfinite(actual)
    inside = (actual >= lower) & (actual <= upper)
    return float(inside[seen].mean()) if seen.any() else float("nan")


def skill(loss: float, reference: float) -> float:
    """Return the relative gain over a reference loss: 0 equal, 1 perfect, negative worse.

    >>> skill(75.0, 100.0)
    0.25
    """
    return 1.0 - loss / reference if reference > 0 else 0.0
