"""A panel: the regular, repaired history of all series of a data set as arrays, ready to be cut into windows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Panel:
    """All series on one regular UTC grid.

    S series, T steps, A steps that known-future covariates reach beyond them, C targets, P past covariates, K
    known-future covariates given by the user, N static covariates. A value that is NaN was neither observed nor filled;
    no window that touches one is used.
    """

    series: tuple[str, ...]
    start: datetime
    step: timedelta
    targets: Array
    """[S, T, C], gaps filled by the job file's policy."""
    past: Array
    """[S, T, P], the same for covariates known up to the origin."""
    observed: Mask
    """[S, T, C], whether a target was really observed: scores count only these."""
    filled: Mapping[str, int]
    """Number of filled values per channel."""
    past_observed: Mask = field(default_factory=lambda: np.ones((0, 0, 0), bool))
    """[S, T, P]; what is finite if left out."""
    future: Array = field(default_factory=lambda: np.empty((0, 0, 0)))
    """[S, T + A, K], covariates known beyond the origin, as stored: which of them were told when is not kept. None if
    left out."""
    future_observed: Mask = field(default_factory=lambda: np.ones((0, 0, 0), bool))
    """[S, T + A, K]; what is finite if left out."""
    statics: Array = field(default_factory=lambda: np.empty((0, 0)))
    """[S, N], in their own units; NaN for a series that the job file gives none. None if left out."""

    def __post_init__(self) -> None:
        series, steps = self.targets.shape[:2]
        if not len(self.future):
            object.__setattr__(self, "future", np.empty((series, steps, 0)))
        if not len(self.statics):
            object.__setattr__(self, "statics", np.empty((series, 0)))
        if not len(self.past_observed):
            object.__setattr__(self, "past_observed", np.isfinite(self.past))
        if not len(self.future_observed):
            object.__setattr__(self, "future_observed", np.isfinite(self.future))

    def only(self, series: Collection[str]) -> Panel:
        """Return the panel of some of its series, in their order here."""
        kept = [number for number, name in enumerate(self.series) if name in series]
        every = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        arrays: dict[str, Any] = {name: values[kept] for name, values in every if isinstance(values, np.ndarray)}
        return replace(self, series=tuple(self.series[number] for number in kept), **arrays)

    @property
    def steps(self) -> int:
        """T, the number of rows of the grid."""
        return int(self.targets.shape[1])

    @property
    def end(self) -> datetime:
        """The first time after the panel: the origin of a forecast made from all of it."""
        return self.time(self.steps)

    @property
    def digest(self) -> str:
        """SHA-256 of the values, cleaned as they are, with their series and times."""
        digest = hashlib.sha256(repr((self.series, self.start, self.step)).encode())
        for values in (self.targets, self.past, self.future, self.statics):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def time(self, index: int) -> datetime:
        """Return the time of a row; indices beyond the end are future rows."""
        return self.start + self.step * index

    def index(self, time: datetime) -> int:
        """Return the row at or before a time, which may lie before the start or beyond the end."""
        return (time - self.start) // self.step
