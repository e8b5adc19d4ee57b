"""Perturb windows with noise or missing values, as faulty sensors would, to measure robustness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.panel import Array, Mask
from forecast.runtime.scaler import Scaler
from pipelines.preparation.fill import filled
from pipelines.preparation.windows import Windows


def newest(windows: Windows, lookback: int) -> Windows:
    """Return windows cut to their newest ``lookback`` steps."""
    first = windows.targets.shape[1] - lookback
    return replace(
        windows, targets=windows.targets[:, first:], past=windows.past[:, first:], future=windows.future[:, first:]
    )


def noisy(windows: Windows, scaler: Scaler, level: float, seed: int = 0) -> Windows:
    """Add normal noise of ``level`` standard deviations of each channel to targets and past covariates."""
    random = np.random.default_rng(seed)
    past = np.asarray([scaler.past[name][1] for name in windows.series])

    def disturbed(values: Array, deviations: Array) -> Array:
        noise: Array = random.normal(size=values.shape) * deviations[:, None]
        return values + level * noise

    return replace(
        windows,
        targets=disturbed(windows.targets, scaler.deviations(windows.series)),
        past=disturbed(windows.past, past),
    )


def scattered(windows: Windows, share: float, lookback: int, seed: int = 0) -> Mask:
    """Return a mask [N, L, C + P] of values missing independently, among the newest ``lookback`` steps."""
    shape = _shape(windows)
    missing = np.random.default_rng(seed).random(shape) < share
    missing[:, : shape[1] - lookback] = False
    return missing


def in_blocks(windows: Windows, share: float, block: int, lookback: int, seed: int = 0) -> Mask:
    """Return a mask [N, L, C + P] of values missing in blocks of ``block`` steps, in all channels at once.

    Blocks never touch, so that each keeps its length; ``share`` is approximated within this limit.

        lookback   | . # # # . # # # . . . . . . # # # |     slot = block + 1 steps, at least one present
    """
    random = np.random.default_rng(seed)
    count, steps, channels = _shape(windows)
    missing = np.zeros((count, steps), bool)
    slot = min(block, max(lookback - 1, 1)) + 1  # a block and one present step
    slots = lookback // slot
    wanted = min(max(round(share * lookback / (slot - 1)), 1), slots)
    for window in range(count):
        offset = steps - slots * slot - int(random.integers(lookback - slots * slot + 1))
        for place in random.choice(slots, wanted, replace=False):
            begin = offset + place * slot + 1
            missing[window, begin : begin + slot - 1] = True
    return np.broadcast_to(missing[..., None], (count, steps, channels)).copy()


def without(windows: Windows, missing: Mask, config: DatasetConfig) -> tuple[Windows, Mask]:
    """Remove values and fill the gaps like gaps of history; also returns the mask [N] of complete windows.

    The others have a gap longer than their channel's ``fill_limit``: the service would issue no forecast from them.
    """
    count = len(config.targets)

    def repaired(values: Array, gaps: Mask, names: tuple[str, ...]) -> Array:
        channels = [config.channels[name] for name in names]
        return filled(np.where(gaps, np.nan, values), ~gaps, channels, config.season)

    targets = repaired(windows.targets, missing[..., :count], config.targets)
    past = repaired(windows.past, missing[..., count:], config.past_covariates)
    whole: Mask = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in (targets, past)])
    return replace(windows, targets=targets, past=past), whole


def _shape(windows: Windows) -> tuple[int, int, int]:
    count, steps, targets = windows.targets.shape
    return count, steps, targets + windows.past.shape[2]
