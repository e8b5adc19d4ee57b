"""Age of the known-future covariates of a forecast: the data version that brought the newest of them."""

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
class CovariateAge:
    """Age of the known-future covariates of a forecast."""

    version: int
    """The earliest data version, of those still kept, with all covariates known from the origin on."""
    recorded_at: datetime
    until: datetime | None
    """Time of the newest value of the series and channel that end first; ``None`` if one of them has no value."""


def covariate_age(table: Observations, version: int, panel: Panel, config: DatasetConfig) -> CovariateAge | None:
    """Return the age of a panel's known-future covariates; ``version`` of the table is where the panel was read.

    ``None`` if the config has no known-future covariates except the calendar's.
    """
    if not config.future_covariates:
        return None
    newest = newest_rows(panel.future_observed)
    shortest, longest = int(newest.min()), int(newest.max())
    # If none reaches beyond the origin, the newest value before it is carried forward.
    since = min(panel.end, panel.time(max(longest, 0)))
    known = _known(table, version, since, config)
    kept = [each for each in table.versions if each <= version]
    first = _first_like(known, kept, table, since, config)
    return CovariateAge(first, table.recorded_at(first), None if shortest < 0 else panel.time(shortest))


def _first_like(
    known: pl.DataFrame, versions: Sequence[int], table: Observations, since: datetime, config: DatasetConfig
) -> int:
    """Return the first of the newest versions with equal covariates; galloping and bisection read O(log n) of them."""

    def had(version: int) -> bool:
        return _known(table, version, since, config).equals(known)

    first, stride = len(versions) - 1, 1
    while first - stride >= 0 and had(versions[first - stride]):
        first, stride = first - stride, 2 * stride
    return versions[bisect_left(versions, True, max(first - stride + 1, 0), first, key=had)]


def _known(table: Observations, version: int, since: datetime, config: DatasetConfig) -> pl.DataFrame:
    rows = table.read(version=version, since=since, channels=config.future_covariates)
    return rows.filter(pl.any_horizontal(pl.col(config.future_covariates).is_not_null()))
