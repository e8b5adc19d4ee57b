"""The panel: the regular, gap-filled history of all series of a data set as arrays, ready to be cut into windows."""

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

    S series, T steps, A steps that future covariates reach beyond them, C targets, P past covariates, K future
    covariates given by the user, N static covariates. A NaN was neither observed nor filled; windows that contain one
    are not used.

    >>> hours = Panel(
    ...     series=("east",), start=datetime(2024, 1, 1), step=timedelta(hours=1), targets=np.zeros((1, 48, 1)),
    ...     past=np.zeros((1, 48, 0)), observed=np.ones((1, 48, 1), bool), filled={},
    ... )
    >>> hours.steps, hours.end.isoformat(), hours.index(datetime(2024, 1, 1, 5, 30))
    (48, '2024-01-03T00:00:00', 5)
    """

    series: tuple[str, ...]
    start: datetime
    step: timedelta
    targets: Array
    """[S, T, C], gaps filled as the config says."""
    past: Array
    """[S, T, P], the same for past covariates."""
    observed: Mask
    """[S, T, C], whether a target was observed; scores count only observed values."""
    filled: Mapping[str, int]
    """Number of filled values per channel."""
    past_observed: Mask = field(default_factory=lambda: np.ones((0, 0, 0), bool))
    """[S, T, P]; default: where ``past`` is finite."""
    future: Array = field(default_factory=lambda: np.empty((0, 0, 0)))
    """[S, T + A, K], future covariates in their newest version: when each value became known is not kept. Default:
    none."""
    future_observed: Mask = field(default_factory=lambda: np.ones((0, 0, 0), bool))
    """[S, T + A, K]; default: where ``future`` is finite."""
    statics: Array = field(default_factory=lambda: np.empty((0, 0)))
    """[S, N], in their own units; NaN for a series without static covariates in the config. Default: none."""

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
        """Return the panel of some series, in the order of this one."""
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
        """The first time after the panel: the origin of a forecast from all rows."""
        return self.time(self.steps)

    @property
    def digest(self) -> str:
        """SHA-256 of the cleaned values with their series and times."""
        digest = hashlib.sha256(repr((self.series, self.start, self.step)).encode())
        for values in (self.targets, self.past, self.future, self.statics):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def time(self, index: int) -> datetime:
        """Return the time of a row; indices beyond the end are future rows."""
        return self.start + self.step * index

    def index(self, time: datetime) -> int:
        """Return the row at or before a time; outside the panel it is negative or at least T."""
        return (time - self.start) // self.step
