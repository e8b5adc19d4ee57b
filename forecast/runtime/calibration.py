"""Conformal calibration of a network's quantiles; the service applies it, without torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Self

import numpy as np
from pydantic import Field

from forecast.panel import Array
from forecast.strict import StrictModel

_CALM = 0.01
"""Added to the mean change of every look-back, in deviations: a band has a width even after a constant look-back."""


class Calibration(StrictModel):
    """Offsets of the network's scaled output, so that each quantile has its nominal coverage.

    One offset per group of lead times, channel and level, in units of :func:`scales`: conformalised quantile regression
    (Romano, Patterson, Candes 2019) with scores normalised by the changes within the look-back. A point model, whose
    output is one value for all levels, gets its band from its residuals by the same rule.

    >>> shifted = Calibration(group=1, quantile_offsets=(((-1.0, 0.0, 1.0),),), mean_offsets=((0.0,),))
    >>> mean, quantiles = shifted.apply(np.zeros((1, 1, 1, 3)), median=1, scale=np.full((1, 1, 1), 2.0))
    >>> quantiles.ravel().tolist()
    [-2.0, 0.0, 2.0]
    """

    group: int
    """Number of lead times in one group."""
    quantile_offsets: tuple[tuple[tuple[float, ...], ...], ...]
    """[groups, C, Q]"""
    mean_offsets: tuple[tuple[float, ...], ...]
    """[groups, C], added to the median."""
    period: int = Field(default=0, ge=0)
    """Steps of a day, for :func:`scales`; 0: offsets are in deviations, as in models of earlier releases."""

    @classmethod
    def none(cls, channels: int, levels: int, horizon: int) -> Self:
        """Return offsets of zero, which leave the network's output unchanged."""
        return cls(
            group=horizon,
            quantile_offsets=((tuple(0.0 for _ in range(levels)),) * channels,),
            mean_offsets=(tuple(0.0 for _ in range(channels)),),
        )

    def apply(self, quantiles: Array, median: int, scale: Array) -> tuple[Array, Array]:
        """Calibrate quantiles [B, H, C, Q] by scales [B, H, C]: mean [B, H, C], ascending quantiles [B, H, C, Q]."""
        ordered = _ascending(quantiles)
        of_means, of_quantiles = _arrays(self)
        groups = np.minimum(np.arange(ordered.shape[1]) // self.group, len(of_means) - 1)
        mean = ordered[..., median] + of_means[groups] * scale
        calibrated = of_quantiles[groups] * scale[..., None]
        calibrated += ordered
        return mean, _ascending(calibrated)


@lru_cache(maxsize=64)
def _arrays(calibration: Calibration) -> tuple[Array, Array]:
    return np.asarray(calibration.mean_offsets), np.asarray(calibration.quantile_offsets)


def _ascending(values: Array) -> Array:
    # Checking costs a fraction of sorting, and most networks' quantiles are sorted already.
    return values if (values[..., 1:] >= values[..., :-1]).all() else np.sort(values, axis=-1)


def scales(lookback: Array, horizon: int, period: int) -> Array:
    """Return the relative width of each lead time's band: scaled look-back [B, L, C] -> [B, H, C].

    The square root of the mean absolute change from one period to the next within the look-back. Half of the mean is
    over all phases of the period, half over the lead time's own phase and its two neighbours. So a band is wider after
    volatile days and in volatile hours. The root, because one look-back estimates its scale with errors. All ones if
    the look-back is shorter than two periods.
    """
    windows, steps, channels = lookback.shape
    rounds = steps // period - 1 if period else 0
    if rounds < 1:
        return np.ones((windows, horizon, channels))
    change = np.abs(lookback[:, -rounds * period :] - lookback[:, -(rounds + 1) * period : -period])
    by_phase = change.reshape(windows, rounds, period, channels).mean(axis=1)  # phase 0 is the first lead time's
    around = np.concatenate([by_phase[:, -1:], by_phase, by_phase[:, :1]], axis=1)
    near = (around[:, :-2] + by_phase + around[:, 2:]) / 3
    level = (near + by_phase.mean(axis=1, keepdims=True)) / 2  # [B, period, C]
    return np.asarray(np.sqrt(_CALM + level)[:, np.arange(horizon) % period])
