"""Fill gaps by each channel's policy, in a whole history or in the part of it known at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecast.config.channels import Channel
from forecast.panel import Array, Mask
from forecast.vocabulary import Fill

_POLICIES = tuple(Fill)


def filled(values: Array, observed: Mask, channels: Sequence[Channel], season: int, *, at_once: bool = False) -> Array:
    """Fill the gaps of values [S, T, K], K being ``channels``; observed values never change.

    ``at_once`` fills as if a gap's end was not known yet: a linear fill repeats the last value, and the first
    ``fill_limit`` steps are filled however long the gap became. Returns ``values`` itself if nothing is missing.

    >>> values = np.asarray([1.0, np.nan, np.nan, 4.0])[None, :, None]
    >>> channels = [Channel(role="target", fill="linear", fill_limit=2)]
    >>> filled(values, np.isfinite(values), channels, season=24).ravel().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if observed.all():
        return values
    series, channel, begin, end = _gaps(observed)
    length = end - begin
    limits = np.asarray([one.fill_limit if one.fill is not Fill.NONE else 0 for one in channels])[channel]
    filling = np.minimum(length, limits) if at_once else np.where(length <= limits, length, 0)
    gap = np.repeat(np.arange(len(begin)), filling)  # [M], the gap of each filled value
    since = np.arange(len(gap)) - np.repeat(np.cumsum(filling) - filling, filling)  # [M], steps since its gap began
    place = (series[gap], begin[gap] + since, channel[gap])

    before = np.where(begin > 0, values[series, np.maximum(begin - 1, 0), channel], np.nan)
    new = before[gap]  # forward
    policy = np.asarray([_POLICIES.index(one.fill) for one in channels])[place[2]]
    new[policy == _POLICIES.index(Fill.ZERO)] = 0.0
    seasonal = policy == _POLICIES.index(Fill.SEASONAL)
    new[seasonal] = _seasonal_values(values, observed, tuple(part[seasonal] for part in place), season)
    if not at_once:
        last = values.shape[1]
        after = np.where(end < last, values[series, np.minimum(end, last - 1), channel], before)
        linear = policy == _POLICIES.index(Fill.LINEAR)
        share = (since[linear] + 1) / (length[gap[linear]] + 1)
        new[linear] += share * (after - before)[gap[linear]]
    repaired = np.where(observed, values, np.nan)
    repaired[place] = new
    return repaired


def _gaps(observed: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return series, channel, first row and end row (exclusive) of every run of unobserved values."""
    missing = (~observed.transpose(0, 2, 1)).astype(np.int8)  # [S, K, T]: both edges of a gap come next to each other
    edges = np.diff(missing, axis=2, prepend=0, append=0)
    series, channel, begin = np.nonzero(edges == 1)
    return series, channel, begin, np.nonzero(edges == -1)[2]


def _seasonal_values(
    values: Array,
    observed: Mask,
    place: tuple[NDArray[np.intp], ...],
    season: int,
) -> Array:
    """Return the newest observed value a whole number of seasons earlier; NaN where there is none."""
    series, rows, channel = place
    source = rows - season
    while True:
        again = (source >= 0) & ~observed[series, np.maximum(source, 0), channel]
        if not again.any():
            return np.where(source >= 0, values[series, np.maximum(source, 0), channel], np.nan)
        source[again] -= season
