"""Estimate quantile offsets on the calibration slice, so that intervals reach their nominal coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from forecast.evaluation.metrics import pinball
from forecast.panel import Array
from forecast.runtime.calibration import Calibration, scales
from forecast.runtime.model import ServedModel
from pipelines.preparation.windows import Windows

_BLOCKS = 4
"""Number of folds of the cross-validation, each a contiguous block of origins."""
_SHARES = (0.0, 0.5, 1.0)
"""Candidate weights of the one-sided offsets against the symmetric ones."""


def calibrate(model: ServedModel, windows: Windows, day: timedelta) -> Calibration:
    """Estimate the offsets with which the model's quantiles reach their nominal coverage on these windows.

    Lead times are grouped by day, or by eight groups if the horizon is shorter than eight days, so that each offset
    rests on many values.

    Residuals of a few weeks estimate the width of a band better than its bias, which drifts. So there are two kinds of
    offsets: symmetric ones widen the band between a level and its mirrored level until it reaches its coverage;
    one-sided ones are each level's own quantile of the residuals and also shift the band. Each channel takes the
    mixture with the lowest quantile loss in cross-validation over blocks of time. Offsets that would increase the
    quantile loss on these same windows are dropped.
    """
    manifest = model.manifest
    period = max(int(day / timedelta(seconds=manifest.step_seconds)), 1)
    group = min(period, -(-manifest.horizon // 8))
    raw = model.scaled_quantiles(windows.targets, windows.past, windows.future, windows.series)
    raw = np.sort(raw, axis=-1)
    actual = manifest.scaler.scale_targets(windows.actual, windows.series)
    scale = scales(manifest.scaler.scale_targets(windows.targets, windows.series), manifest.horizon, period)
    block = _blocks(windows.origins)
    begins = range(0, manifest.horizon, group)
    channels = []
    for channel in range(len(manifest.targets)):
        parts = [np.s_[:, begin : begin + group, channel] for begin in begins]
        residuals = [_Residuals.of(raw[part], actual[part], scale[part], block, manifest.quantiles) for part in parts]
        share = min(_SHARES, key=lambda share: sum(one.held_out_loss(share) for one in residuals))
        channels.append([one.corrections(share) for one in residuals])
    return Calibration(
        group=group,
        quantile_offsets=tuple(tuple(tuple(one[0]) for one in found) for found in zip(*channels, strict=True)),
        mean_offsets=tuple(tuple(one[1] for one in found) for found in zip(*channels, strict=True)),
        period=period,
    )


@dataclass(frozen=True, slots=True)
class _Residuals:
    """Residuals of one channel and group of lead times."""

    error: Array
    """[n, Q]: (actual - predicted quantile) / scale."""
    scale: Array
    """[n]"""
    block: NDArray[np.intp]
    """[n], the cross-validation block."""
    levels: tuple[float, ...]
    """[Q], mirrored around the median."""

    @classmethod
    def of(
        cls, raw: Array, actual: Array, scale: Array, block: NDArray[np.intp], levels: tuple[float, ...]
    ) -> _Residuals:
        """Select the observed steps of raw [N, h, Q], actual and scale [N, h], and block [N]."""
        seen = np.isfinite(actual)
        error = (actual[..., None] - raw)[seen] / scale[seen][:, None]
        return cls(error, scale[seen], np.broadcast_to(block[:, None], actual.shape)[seen], levels)

    def offsets(self, share: float) -> Array:
        """Return ``(1 - share)`` times the symmetric offsets plus ``share`` times the one-sided ones: [Q]."""
        symmetric = np.zeros(len(self.levels))
        for low in range(len(self.levels) // 2):
            high = len(self.levels) - 1 - low
            outside = np.maximum(-self.error[:, low], self.error[:, high])  # negative within the band
            symmetric[high] = np.quantile(outside, self.levels[high] - self.levels[low])
            symmetric[low] = -symmetric[high]
        one_sided = np.asarray([np.quantile(self.error[:, q], level) for q, level in enumerate(self.levels)])
        return (1.0 - share) * symmetric + share * one_sided

    def loss(self, offsets: Array) -> float:
        """Return the sum of the quantile losses, in deviations."""
        return float((pinball(np.zeros(len(self.error)), offsets - self.error, self.levels) * self.scale).sum())

    def held_out_loss(self, share: float) -> float:
        """Return the cross-validated loss: each block is corrected with the offsets of the other blocks."""
        total = 0.0
        for number in range(_BLOCKS):
            inside = self.block == number
            if inside.any() and not inside.all():
                total += self._only(inside).loss(self._only(~inside).offsets(share))
        return total

    def corrections(self, share: float) -> tuple[list[float], float]:
        """Return the offsets of the quantiles and the offset of the mean."""
        if not len(self.error):
            return [0.0] * len(self.levels), 0.0
        offsets = self.offsets(share)
        if self.loss(offsets) > self.loss(np.zeros(len(self.levels))):
            return [0.0] * len(self.levels), 0.0
        # These weights make it the least-squares offset in scaled units.
        mean = np.average(self.error[:, len(self.levels) // 2], weights=self.scale**2)
        return offsets.tolist(), share * float(mean)

    def _only(self, kept: NDArray[np.bool_]) -> _Residuals:
        return _Residuals(self.error[kept], self.scale[kept], self.block[kept], self.levels)


def _blocks(origins: Sequence[datetime]) -> NDArray[np.intp]:
    distinct, place = np.unique(np.asarray([origin.timestamp() for origin in origins]), return_inverse=True)
    return np.asarray(place * _BLOCKS // len(distinct))
