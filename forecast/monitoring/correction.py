"""Between two trainings: move quantiles by what came true of the forecasts that were issued since.

A rolling form of conformalised quantile regression. The score of a value is its signed distance from the issued
quantile over half the width of the issued band (the CQR-r scores of Sesia and Candes 2020), so that one offset suits
calm and restless hours. Offsets of a channel and a group of lead times are quantiles of the scores of the newest steps,
as in conformal methods with a sliding window (Xu and Xie 2021): symmetric ones, that widen or narrow the band between a
level and its mirrored level until it covers what it promises, and what each side's own quantile adds to them.

Why a window, and not the recursion of adaptive conformal inference (Gibbs and Candes 2021): values of many lead times
come true late, together and out of order, and a recursion's state depends on that order. The quantile of a window
depends on what is stored and on nothing else, so the same rows give the same offsets again.

What a window says is uncertain, and to believe all of it costs accuracy where nothing has changed. So an offset is
taken as far as the miss that it mends is beyond chance: by the factor 1 - (1.5 / z)^2, but not below 0, where z is the
miss over its standard error. That error counts in that neighbouring steps miss together (Newey and West 1987).

Measured on simulated hourly forecasts of 24 steps by a model that is right about the past, with windows of 336 steps
(the first two in tests/forecast/monitoring/test_correction.py): where the noise doubles after the training the 80% band
covers 48% without and 78 to 80% with it, and the quantile loss falls by 10 to 11%; where nothing changes the loss
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
"""Steps that must have been observed of a channel and group before anything is moved."""
_CALM = 0.01
"""Deviations that are added to every half width: a band without width can still be widened."""
_BY_CHANCE = 1.5


class Correction(StrictModel):
    """Offsets of quantiles, in units of :func:`spreads`, by group of lead times, channel and level."""

    model_version: str
    until: datetime
    """Of what came true before this."""
    channels: tuple[str, ...]
    levels: tuple[float, ...]
    ends: tuple[int, ...]
    """Last lead time of each group; later ones belong to the last."""
    offsets: tuple[tuple[tuple[float, ...], ...], ...]
    """[groups, C, Q]; zero at the median."""
    seen: tuple[tuple[int, ...], ...]
    """[groups, C], the steps that each rests on."""

    @property
    def moves(self) -> bool:
        """Whether any offset is not zero."""
        return any(offset for group in self.offsets for channel in group for offset in channel)

    def apply(self, quantiles: Array, deviations: Array) -> Array:
        """Move ascending quantiles [S, H, C, Q] of series with deviations [S, C]; they still ascend.

        The median stays where it is, and none passes it.
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
    """Return half the width of bands [..., Q], and a little of the deviations [...]."""
    return np.asarray((quantiles[..., -1] - quantiles[..., 0]) / 2 + _CALM * deviations)


def offsets_of(
    actual: Array, quantiles: Array, deviations: Array, steps: NDArray[np.int64], levels: Sequence[float]
) -> tuple[tuple[float, ...], int]:
    """Return the offsets of one channel and group of lead times, and the steps that they rest on.

    ``actual`` [n], finite; ``quantiles`` [n, Q] as they were before any correction; ``deviations`` [n]; ``steps`` [n],
    the number of the step that each value is of. All zero with fewer than ``LEAST`` steps.
    """
    none = (0.0,) * len(levels)
    _, place, counts = np.unique(steps, return_inverse=True, return_counts=True)
    if len(counts) < LEAST:
        return none, len(counts)
    scale = spreads(quantiles, deviations)
    scores = (actual[:, None] - quantiles) / scale[:, None]
    below = np.stack([np.bincount(place, one, len(counts)) / counts for one in (scores <= 0).T])  # [Q, steps]
    found = np.zeros(len(levels))
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        promised = levels[high] - levels[low]
        width = np.quantile(np.maximum(-scores[:, low], scores[:, high]), promised)  # negative if the band is too wide
        wider = width * _believed(below[high] - below[low] - promised, promised)
        aside = _believed(below[high] + below[low] - 1.0, 2 * levels[low])
        found[low] = -wider + aside * (np.quantile(scores[:, low], levels[low]) + width)
        found[high] = wider + aside * (np.quantile(scores[:, high], levels[high]) - width)
    weights = scale / deviations
    before = (pinball(np.zeros(len(scores)), -scores, levels) * weights).sum()
    after = (pinball(np.zeros(len(scores)), found - scores, levels) * weights).sum()
    return (tuple(found.tolist()) if after < before else none), len(counts)


def _believed(missed: Array, share: float) -> float:
    """Return how much of an offset to take, from how much a share was missed by, step by step."""
    count = len(missed)
    (variance,) = long_run_variance(missed[None], max(round(count**0.5), 1))
    # Not below that of independent steps: a window in which all missed alike knows nothing of chance.
    error = (max(float(variance), share * (1 - share)) / count) ** 0.5
    z = abs(float(missed.mean())) / error
    return 0.0 if z <= _BY_CHANCE else 1.0 - (_BY_CHANCE / z) ** 2
