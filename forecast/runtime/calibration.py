"""How a network's quantiles are mended until they cover what they promise; applied by the service, without torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Self

import numpy as np
from pydantic import Field

from forecast.panel import Array
from forecast.strict import StrictModel

_CALM = 0.01
"""Deviations that are added to every look-back's changes: where nothing moved, a band still has a width."""


class Calibration(StrictModel):
    """What is added to the network's scaled output so that its quantiles cover what they promise.

    For each group of lead times, channel and level an offset, in units of :func:`scales`: conformalised quantile
    regression (Romano, Patterson, Candes 2019) with scores normalised by how much the look-back moved. A model that
    tells one value for all levels gets its band from its residuals by the same rule.
    """

    group: int
    """Lead times in one group."""
    quantile_offsets: tuple[tuple[tuple[float, ...], ...], ...]
    """[groups, C, Q]"""
    mean_offsets: tuple[tuple[float, ...], ...]
    """[groups, C], added to the median."""
    period: int = Field(default=0, ge=0)
    """Steps of a day, by which :func:`scales` are told; 0: offsets are in deviations, as in models stored before."""

    @classmethod
    def none(cls, channels: int, levels: int, horizon: int) -> Self:
        """Return offsets of zero: the network's output as it is."""
        return cls(
            group=horizon,
            quantile_offsets=((tuple(0.0 for _ in range(levels)),) * channels,),
            mean_offsets=(tuple(0.0 for _ in range(channels)),),
        )

    def apply(self, quantiles: Array, median: int, scale: Array) -> tuple[Array, Array]:
        """Mend [B, H, C, Q], told by scales [B, H, C]: mean [B, H, C], quantiles [B, H, C, Q], ascending."""
        ordered = _ascending(quantiles)
        of_means, of_quantiles = _arrays(self)
        groups = np.minimum(np.arange(ordered.shape[1]) // self.group, len(of_means) - 1)
        mean = ordered[..., median] + of_means[groups] * scale
        mended = of_quantiles[groups] * scale[..., None]
        mended += ordered
        return mean, _ascending(mended)


@lru_cache(maxsize=64)
def _arrays(calibration: Calibration) -> tuple[Array, Array]:
    return np.asarray(calibration.mean_offsets), np.asarray(calibration.quantile_offsets)


def _ascending(values: Array) -> Array:
    # Looking costs a fraction of sorting, and what most networks tell is in order already.
    return values if (values[..., 1:] >= values[..., :-1]).all() else np.sort(values, axis=-1)


def scales(lookback: Array, horizon: int, period: int) -> Array:
    """Return how wide each lead time's band is, up to a factor: scaled look-back [B, L, C] -> [B, H, C].

    The root of the mean absolute change from one period to the next within the look-back: half of it over all phases
    of the period, half over the lead time's own and the two beside it. So a band is wider after restless days and in
    restless hours. The root, because a look-back tells its own scale with errors. All ones if the look-back is shorter
    than two periods.
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
