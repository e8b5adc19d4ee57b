"""Correction of quantiles between two trainings, from the errors of the forecasts issued since.

The method is a rolling form of conformalised quantile regression. The score of a value is its signed distance from the
issued quantile over half the width of the issued band (the CQR-r scores of Sesia and Candes 2020), so that one offset
suits calm and volatile hours. The offsets of a channel and a group of lead times are quantiles of the newest steps'
scores, as in conformal methods with a sliding window (Xu and Xie 2021). A symmetric part widens or narrows the band
between a level and its mirrored level to its nominal coverage; each side's own quantile adds an asymmetric part.

Why a window and not the recursion of adaptive conformal inference (Gibbs and Candes 2021): observations of many lead
times arrive late, together and out of order, and the state of a recursion depends on that order. The quantile of a
window depends on the stored rows alone, so the same rows give the same offsets.

The estimate from a window is uncertain, and applying it in full costs accuracy where nothing has changed. Each offset
is therefore shrunk by the significance of the miss that it corrects: by the factor 1 - (1.5 / z)^2, but not below 0,
where z is the miss over its standard error. That error accounts for the correlation of neighbouring steps (Newey and
West 1987).

Measured on simulated hourly forecasts of 24 steps by a model that fits the past, with windows of 336 steps (the first
two cases in tests/forecast/monitoring/test_correction.py). If the noise doubles after the training, the 80% band covers
48% without and 78 to 80% with the correction, and the quantile loss falls by 10 to 11%. If nothing changes, the loss
rises by 0.0% (independent values) to 0.5% (values with an autocorrelation of 0.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from forecast.evaluation.metrics import pinball
from forecast.evaluation.significance import long_run_variance
from forecast.panel import Array
from forecast.strict import StrictModel

LEAST = 50
"""Minimum number of observed steps of a channel and group for a correction."""
_CALM = 0.01
"""Standard deviations added to every half width, so that a band of width zero can be widened too."""
_CHANCE_Z = 1.5


class Correction(StrictModel):
    """Offsets of quantiles, in units of :func:`spreads`, by group of lead times, channel and level."""

    model_version: str
    until: datetime
    """End of the observations that the offsets rest on."""
    channels: tuple[str, ...]
    levels: tuple[float, ...]
    ends: tuple[int, ...]
    """Last lead time of each group; later ones belong to the last."""
    offsets: tuple[tuple[tuple[float, ...], ...], ...]
    """[groups, C, Q]; zero at the median."""
    seen: tuple[tuple[int, ...], ...]
    """[groups, C], the number of steps that each offset rests on."""

    @property
    def moves(self) -> bool:
        """Whether any offset is not zero."""
        return any(offset for group in self.offsets for channel in group for offset in channel)

    def apply(self, quantiles: Array, deviations: Array) -> Array:
        """Return corrected quantiles [S, H, C, Q] of series with standard deviations [S, C], still ascending.

        The median stays, and no quantile crosses it.
        """
        middle = self.levels.index(0.5)
        groups = np.minimum(np.searchsorted(self.ends, np.arange(quantiles.shape[1]), side="right"), len(self.ends) - 1)
        offsets = np.asarray(self.offsets)[groups]  # [H, C, Q]
        moved = quantiles + offsets * spreads(quantiles, deviations[:, None])[..., None]
        median = quantiles[..., middle, None]
        moved[..., :middle] = np.minimum(moved[..., :middle], median)
        moved[..., middle + 1 :] = np.maximum(moved[..., middle + 1 :], median)
        moved[..., middle] = quantiles[..., middle]
        return np.sort(moved, axis=-1)


def spreads(quantiles: Array, deviations: Array) -> Array:
    """Return half the width of bands [..., Q], plus a small share of the standard deviations [...]."""
    return np.asarray((quantiles[..., -1] - quantiles[..., 0]) / 2 + _CALM * deviations)


def offsets_of(
    actual: Array, quantiles: Array, deviations: Array, steps: NDArray[np.int64], levels: Sequence[float]
) -> tuple[tuple[float, ...], int]:
    """Return the offsets of one channel and group of lead times, and the number of steps that they rest on.

    ``actual`` [n], finite; ``quantiles`` [n, Q] before any correction; ``deviations`` [n]; ``steps`` [n], the number
    of each value's step. All offsets are zero with fewer than ``LEAST`` steps, or if they would not lower the loss.
    """
    none = (0.0,) * len(levels)
    _, place, counts = np.unique(steps, return_inverse=True, return_counts=True)
    if len(counts) < LEAST:
        return none, len(counts)
    scale = spreads(quantiles, deviations)
    scores = (actual[:, None] - quantiles) / scale[:, None]
    below = np.stack([np.bincount(place, one, len(counts)) / counts for one in (scores <= 0).T])  # [Q, steps]
    # For each pair of levels, low and high:
    #   miss of the band = share of values inside it - (high - low)  -> `wider`, both sides outwards or inwards
    #   miss of the side = (share below low) + (share below high) - 1  -> `aside`, both sides up or down
    # `below` is averaged per step first: values of one step are not independent.
    found = np.zeros(len(levels))
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        promised = levels[high] - levels[low]
        width = np.quantile(np.maximum(-scores[:, low], scores[:, high]), promised)  # negative if the band is too wide
        wider = width * _shrinkage(below[high] - below[low] - promised, promised)
        aside = _shrinkage(below[high] + below[low] - 1.0, 2 * levels[low])
        found[low] = -wider + aside * (np.quantile(scores[:, low], levels[low]) + width)
        found[high] = wider + aside * (np.quantile(scores[:, high], levels[high]) - width)
    weights = scale / deviations
    before = (pinball(np.zeros(len(scores)), -scores, levels) * weights).sum()
    after = (pinball(np.zeros(len(scores)), found - scores, levels) * weights).sum()
    return (tuple(found.tolist()) if after < before else none), len(counts)


def _shrinkage(missed: Array, share: float) -> float:
    """Return the share of an offset to apply, from 0 to 1, given the miss of a nominal share in each step."""
    count = len(missed)
    (variance,) = long_run_variance(missed[None], max(round(count**0.5), 1))
    # At least the error of independent steps: where all steps miss alike the estimated variance is near zero.
    error = (max(float(variance), share * (1 - share)) / count) ** 0.5
    z = abs(float(missed.mean())) / error
    return 0.0 if z <= _CHANCE_Z else 1.0 - (_CHANCE_Z / z) ** 2
