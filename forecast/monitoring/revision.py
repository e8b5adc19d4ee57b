"""Revision of a forecast: its change since the previous one on their common steps, and the causes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from forecast.panel import Array
from forecast.strict import StrictModel


class Moved(StrictModel):
    """Absolute change of medians: its mean and its largest value."""

    mean: float
    largest: float

    @classmethod
    def between(cls, before: Array, after: Array) -> Self:
        """Measure the change of finite values of equal shape; zero if there are none.

        >>> Moved.between(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        Moved(mean=1.0, largest=2.0)
        """
        change = np.abs(after - before)
        return cls(mean=float(change.mean()) if change.size else 0.0, largest=float(change.max(initial=0.0)))


class Revision(StrictModel):
    """Change of a forecast against the previous one."""

    previous: str
    """Identifier of the previous forecast."""
    steps: int
    """Number of common steps."""
    change: Moved
    """Change of the medians, in standard deviations."""
    by_channel: dict[str, Moved]
    """Change of the medians by channel, in its unit."""
    causes: dict[str, float]
    """Mean absolute change by cause, in standard deviations: ``data`` (new rows), ``model`` (a new champion),
    ``covariates`` (revised known-future covariates). Changes of different causes may cancel out, so they need not add
    up to the total. A cause that could not be computed is missing."""


def revision(previous: str, stages: Mapping[str, Array], channels: Sequence[str], deviations: Array) -> Revision:
    """Compare medians [S, H, C] on the common steps, in standard deviations [S, C].

    ``stages`` lead from the old forecast to the new one. Each is named after the cause of the change since the stage
    before it; the name of the first, the old forecast, is free.
    """
    medians = list(stages.values())
    unit = deviations[:, None]
    changes = {
        name: Moved.between(old / unit, new / unit) for (_, old), (name, new) in itertools.pairwise(stages.items())
    }
    return Revision(
        previous=previous,
        steps=int(medians[0].shape[1]),
        change=Moved.between(medians[0] / unit, medians[-1] / unit),
        by_channel={
            name: Moved.between(medians[0][..., place], medians[-1][..., place]) for place, name in enumerate(channels)
        },
        causes={name: moved.mean for name, moved in changes.items()},
    )
