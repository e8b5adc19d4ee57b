"""A panel: the regular, repaired history of all series of a data set as arrays, ready to be cut into windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Panel:
    """All series on one regular UTC grid.

    S series, T steps, C targets, P past covariates. A value that is NaN was neither observed nor filled; no window that
    touches one is used.
    """

    series: tuple[str, ...]
    start: datetime
    step: timedelta
    targets: Array
    """[S, T, C], gaps filled by the job file's policy."""
    past: Array
    """[S, T, P], the same for covariates known up to the origin."""
    observed: NDArray[np.bool_]
    """[S, T, C], whether a target was really observed: scores count only these."""
    filled: Mapping[str, int]
    """Number of filled values per channel."""
    interpolated: NDArray[np.bool_] | None = None
    """[S, T, C + P], whether a value was read off between its observed neighbours, and so knows what came after it."""

    def only(self, series: Collection[str]) -> Panel:
        """Return the panel of some of its series, in their order here."""
        kept = [number for number, name in enumerate(self.series) if name in series]
        return replace(
            self,
            series=tuple(self.series[number] for number in kept),
            targets=self.targets[kept],
            past=self.past[kept],
            observed=self.observed[kept],
            interpolated=None if self.interpolated is None else self.interpolated[kept],
        )

    @property
    def steps(self) -> int:
        """T, the number of rows of the grid."""
        return int(self.targets.shape[1])

    @property
    def end(self) -> datetime:
        """The first time after the panel: the origin of a forecast made from all of it."""
        return self.time(self.steps)

    def time(self, index: int) -> datetime:
        """Return the time of a row; indices beyond the end are future rows."""
        return self.start + self.step * index

    def index(self, time: datetime) -> int:
        """Return the row at or before a time, which may lie before the start or beyond the end."""
        return (time - self.start) // self.step
