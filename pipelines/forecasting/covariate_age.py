"""How old the covariates are that a forecast takes for known: which data version brought the newest of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.lake.observations import Observations
from forecast.panel import Panel
from pipelines.preparation.freshness import newest_rows


@dataclass(frozen=True, slots=True)
class Vintage:
    """The known-future covariates of a forecast."""

    version: int
    """The earliest data version that is still kept and had all that was known from the origin on."""
    recorded_at: datetime
    until: datetime | None
    """Time of the newest one, of the series and channel that reach least far; ``None`` if one was never known."""


def vintage(table: Observations, version: int, panel: Panel, config: DatasetConfig) -> Vintage | None:
    """Return how old the known-future covariates of a panel are, which was read from a version of the table.

    ``None`` where the job file has none but the calendar's.
    """
    if not config.future_covariates:
        return None
    newest = newest_rows(panel.future_observed)
    shortest, longest = int(newest.min()), int(newest.max())
    # Where none reaches beyond the origin, the newest one before it is what goes on.
    since = min(panel.end, panel.time(max(longest, 0)))
    known = _known(table, version, since, config)
    kept = [each for each in table.versions if each <= version]
    first = _first_like(known, kept, table, since, config)
    return Vintage(first, table.recorded_at(first), None if shortest < 0 else panel.time(shortest))


def _first_like(
    known: pl.DataFrame, versions: Sequence[int], table: Observations, since: datetime, config: DatasetConfig
) -> int:
    """Return the earliest of the last versions that all had the same: a few are read, however many there are."""

    def had(version: int) -> bool:
        return _known(table, version, since, config).equals(known)

    first, stride = len(versions) - 1, 1
    while first - stride >= 0 and had(versions[first - stride]):
        first, stride = first - stride, 2 * stride
    return versions[bisect_left(versions, True, max(first - stride + 1, 0), first, key=had)]


def _known(table: Observations, version: int, since: datetime, config: DatasetConfig) -> pl.DataFrame:
    rows = table.read(version=version, since=since, channels=config.future_covariates)
    return rows.filter(pl.any_horizontal(pl.col(config.future_covariates).is_not_null()))
