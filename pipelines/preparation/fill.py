"""Fill gaps by policy: the same rule for a whole history and for what of it was known at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forecast.config.channels import Channel
from forecast.panel import Array, Mask
from forecast.vocabulary import Fill

_POLICIES = tuple(Fill)


def filled(values: Array, observed: Mask, channels: Sequence[Channel], season: int, *, at_once: bool = False) -> Array:
    """Fill the gaps of [S, T, K] values, K being ``channels``; what was observed is never changed.

    ``at_once`` fills as was done before a gap's end was known: a linear fill then repeats the last value, and the first
    ``fill_limit`` steps are filled however long the gap became. Where nothing is missing ``values`` itself is returned.
    """
    if observed.all():
        return values
    series, channel, begin, end = _gaps(observed)
    length = end - begin
    limits = np.asarray([one.fill_limit if one.fill is not Fill.NONE else 0 for one in channels])[channel]
    filling = np.minimum(length, limits) if at_once else np.where(length <= limits, length, 0)
    gap = np.repeat(np.arange(len(begin)), filling)  # [M], of each value that is filled
    since = np.arange(len(gap)) - np.repeat(np.cumsum(filling) - filling, filling)  # [M], steps since its gap began
    place = (series[gap], begin[gap] + since, channel[gap])

    before = np.where(begin > 0, values[series, np.maximum(begin - 1, 0), channel], np.nan)
    new = before[gap]  # forward
    policy = np.asarray([_POLICIES.index(one.fill) for one in channels])[place[2]]
    new[policy == _POLICIES.index(Fill.ZERO)] = 0.0
    seasonal = policy == _POLICIES.index(Fill.SEASONAL)
    new[seasonal] = _a_season_before(values, observed, tuple(part[seasonal] for part in place), season)
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
    """Return series, channel, first row and the row behind the last one of every run that was not observed."""
    missing = (~observed.transpose(0, 2, 1)).astype(np.int8)  # [S, K, T]: a gap's two edges are neighbours then
    edges = np.diff(missing, axis=2, prepend=0, append=0)
    series, channel, begin = np.nonzero(edges == 1)
    return series, channel, begin, np.nonzero(edges == -1)[2]


def _a_season_before(
    values: Array,
    observed: Mask,
    place: tuple[NDArray[np.intp], ...],
    season: int,
) -> Array:
    """Return the newest value that was observed a whole number of seasons before; NaN where none was."""
    series, rows, channel = place
    source = rows - season
    while True:
        again = (source >= 0) & ~observed[series, np.maximum(source, 0), channel]
        if not again.any():
            return np.where(source >= 0, values[series, np.maximum(source, 0), channel], np.nan)
        source[again] -= season
