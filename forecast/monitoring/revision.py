"""How a new forecast differs from the one before it on the steps that both are of, and why."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from forecast.panel import Array
from forecast.strict import StrictModel


class Moved(StrictModel):
    """How far medians moved."""

    mean: float
    """Mean absolute change."""
    largest: float

    @classmethod
    def between(cls, before: Array, after: Array) -> Self:
        """Measure finite values of one shape; nothing moved if there are none."""
        change = np.abs(after - before)
        return cls(mean=float(change.mean()) if change.size else 0.0, largest=float(change.max(initial=0.0)))


class Revision(StrictModel):
    """One forecast against the one before it."""

    previous: str
    """Its identifier."""
    steps: int
    """That both are of."""
    change: Moved
    """Of the medians, in deviations."""
    by_channel: dict[str, Moved]
    """In each channel's own unit."""
    causes: dict[str, float]
    """Mean absolute change in deviations by its cause: ``data`` (new rows), ``model`` (a new champion), ``covariates``
    (known-future covariates that were told otherwise before). Changes of different causes may cancel out, so that they
    need not add up to the whole. A cause whose share could not be computed is missing."""


def revision(previous: str, stages: Mapping[str, Array], channels: Sequence[str], deviations: Array) -> Revision:
    """Compare medians [S, H, C] on the steps that both forecasts are of, told by the deviations [S, C].

    ``stages`` leads from the old forecast to the new one; each is named after what changed on the way to it, the first,
    the old forecast, by any name.
    """
    message = list(stages.values())
    unit = deviations[:, None]
    changes = {
        name: Moved.between(old / unit, new / unit) for (_, old), (name, new) in itertools.pairwise(stages.items())
    }
    return Revision(
        previous=previous,
        steps=int(message[0].shape[1]),
        change=Moved.between(message[0] / unit, message[-1] / unit),
        by_channel={
            name: Moved.between(message[0][..., place], message[-1][..., place]) for place, name in enumerate(channels)
        },
        causes={name: moved.mean for name, moved in changes.items()},
    )
