"""Downsample a line without changing its look: keep the minimum and maximum of each stretch, and every long gap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecast.panel import Array


def downsample(values: Array, most: int) -> NDArray[np.int64]:
    """Return the indices of about ``most`` values of [T] that draw the same line; NaN is a gap.

    A stretch that is all gap keeps one NaN, so that no line is drawn across it.

    >>> downsample(np.array([0.0, 5, 1, 1, 1, 9, np.nan, np.nan, np.nan]), 6).tolist()
    [0, 1, 3, 5, 6]
    """
    if len(values) <= most:
        return np.arange(len(values))
    length = -(-len(values) // max(most // 2, 1))
    padded = np.concatenate([values, np.full(-len(values) % length, np.nan)]).reshape(-1, length)
    gap = np.isnan(padded).all(axis=1)
    low = np.where(gap, 0, np.argmin(np.where(np.isnan(padded), np.inf, padded), axis=1))
    high = np.where(gap, 0, np.argmax(np.where(np.isnan(padded), -np.inf, padded), axis=1))
    begins = np.arange(len(padded)) * length
    return np.unique(np.concatenate([begins + low, begins + high]))
