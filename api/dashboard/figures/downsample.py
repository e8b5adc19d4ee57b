"""Fewer points of a line that looks the same: the lowest and the highest of each stretch, and every long hole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecast.panel import Array


def thinned(values: Array, most: int) -> NDArray[np.int64]:
    """Return the places of at most about ``most`` values of [T] that draw the same line; NaN is a hole.

    A stretch that holds nothing but holes keeps one of them, so that no line is drawn across it.

    >>> thinned(np.array([0.0, 5, 1, 1, 1, 9, np.nan, np.nan, np.nan]), 6).tolist()
    [0, 1, 3, 5, 6]
    """
    if len(values) <= most:
        return np.arange(len(values))
    length = -(-len(values) // max(most // 2, 1))
    padded = np.concatenate([values, np.full(-len(values) % length, np.nan)]).reshape(-1, length)
    hole = np.isnan(padded).all(axis=1)
    low = np.where(hole, 0, np.argmin(np.where(np.isnan(padded), np.inf, padded), axis=1))
    high = np.where(hole, 0, np.argmax(np.where(np.isnan(padded), -np.inf, padded), axis=1))
    begins = np.arange(len(padded)) * length
    return np.unique(np.concatenate([begins + low, begins + high]))
