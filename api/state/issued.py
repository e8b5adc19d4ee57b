"""Read an issued forecast from the lake into arrays, and check it before it is served."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.errors import StorageError, UnavailableError
from forecast.installation import Installation
from forecast.ledger.issuance import Issuance
from forecast.panel import Array
from forecast.vocabulary import parse_duration


@dataclass(frozen=True, slots=True)
class IssuedForecast:
    """One forecast of all series and channels of a data set.

    S series, C channels, H steps, Q quantile levels; steps beyond ``issuance.horizon`` are recursive.
    """

    issuance: Issuance
    step: timedelta
    series: tuple[str, ...]
    channels: tuple[str, ...]
    mean: Array
    """[S, C, H]"""
    quantiles: Array
    """[S, C, H, Q], ascending along Q."""

    @property
    def horizon(self) -> int:
        """H, the number of steps."""
        return int(self.mean.shape[2])

    @property
    def weight(self) -> int:
        """Bytes of the arrays."""
        return int(self.mean.nbytes + self.quantiles.nbytes)

    def times(self, horizon: int) -> list[datetime]:
        """Return the UTC times of the first steps."""
        return [self.issuance.origin + self.step * lead for lead in range(horizon)]


def read_issued(issuance: Issuance, installation: Installation) -> IssuedForecast:
    """Read the rows of an issuance; raises ``forecast.damaged`` if one is missing or not finite.

    Raises ``forecast.champion_outdated`` if the rows have another frequency than the config file.
    """
    rows = installation.dataset(issuance.dataset).forecasts.read(issuance.forecast_id, issuance.issued_at)
    config = installation.config.datasets[issuance.dataset]
    series = tuple(rows["series"].unique().sort())
    present = set(rows["channel"].unique())
    channels = tuple(name for name in config.targets if name in present)
    # Rows are sorted by series, channel, lead; `order` then puts the channels into the order of the config file.
    shape, order = (len(series), len(present), issuance.horizon), [sorted(present).index(name) for name in channels]
    levels = len(issuance.quantiles)
    if rows.is_empty() or len(rows) != shape[0] * shape[1] * shape[2] or (rows["quantiles"].list.len() != levels).any():
        raise _damaged(issuance, f"{len(rows)} rows of {shape[0]} series, {shape[1]} channels, {shape[2]} steps")
    after_origin = (rows["time"] - issuance.origin).dt.total_microseconds()
    if (after_origin != (rows["lead"].cast(pl.Int64) - 1) * (config.step // timedelta(microseconds=1))).any():
        raise UnavailableError(
            "forecast.champion_outdated",
            f"the forecast of {issuance.dataset} has another frequency than the config file",
            f'run "forecast train {issuance.dataset}"',
        )
    mean = rows["mean"].to_numpy().reshape(shape)[:, order]
    quantiles = rows["quantiles"].explode(empty_as_null=True).to_numpy().reshape(*shape, levels)[:, order]
    if not (np.isfinite(mean).all() and np.isfinite(quantiles).all()):
        raise _damaged(issuance, "a value that is not finite")
    return IssuedForecast(issuance, config.step, series, channels, mean, quantiles)


def age_of(issued: IssuedForecast, config: DatasetConfig, now: datetime) -> tuple[int, bool]:
    """Return the age of a forecast in seconds, and whether it is stale."""
    age = max(now - issued.issuance.issued_at, timedelta(0))
    return int(age.total_seconds()), age >= parse_duration(config.stale_after)


def _damaged(issuance: Issuance, found: str) -> StorageError:
    return StorageError(
        "forecast.damaged", f"forecast {issuance.forecast_id} of {issuance.dataset} has {found}", "issue it again"
    )
