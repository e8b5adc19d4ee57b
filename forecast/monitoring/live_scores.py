"""Live scores of served forecasts, as sums that add up over days, models, channels and lead times.

Losses are in standard deviations of each series and channel on the rows that the forecast's model was fitted on, so
that they add up over channels. The first axis of the sums is :data:`MEASURES`, followed by the quantile loss of each
level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from forecast.evaluation import metrics
from forecast.evaluation.metrics import skill
from forecast.panel import Array

MEASURES = (
    "count", "absolute", "squared", "absolute_in_units", "squared_in_units", "pinball", "pinball_in_units",
    "magnitude", "inside", "promised", "width", "of_season", "of_season_count", "compared", "naive",
)  # fmt: skip
"""``count``: observed values. ``absolute``: errors of the median, ``squared``: of the mean. ``magnitude``: |actual|.
``inside``: values inside the outermost quantiles, ``promised``: their nominal number. ``of_season``: absolute errors
over those of the seasonal naive forecast on the fit rows, for ``of_season_count`` values where these are known.
``compared``, ``naive``: absolute errors of the median and of the seasonal naive forecast, where the latter exists."""


@dataclass(frozen=True, slots=True)
class Points:
    """Forecasts of one model beside the observations, in original units.

    F forecasts, S series, C channels, H lead times, Q quantiles.
    """

    actual: Array
    """[F, S, C, H]; NaN where no value was observed or none was forecast."""
    mean: Array
    """[F, S, C, H]"""
    quantiles: Array
    """[F, S, C, H, Q]"""
    naive: Array
    """[F, S, C, H], the seasonal naive forecast from the rows known at the origin; NaN where there is none."""
    levels: tuple[float, ...]
    deviations: Array
    """[S, C]"""
    naive_errors: Array
    """[S, C], mean absolute error of the seasonal naive forecast on the fit rows; NaN where it is unknown."""

    def sums(self) -> Array:
        """Return the terms of every sum: [len(MEASURES) + Q, F, S, C, H]; zero where no value counts."""
        seen = np.isfinite(self.actual) & np.isfinite(self.mean) & np.isfinite(self.quantiles).all(axis=-1)
        deviations, seasonal = self.deviations[..., None], self.naive_errors[..., None]
        median = self.quantiles[..., self.levels.index(0.5)]
        lower, upper = self.quantiles[..., 0], self.quantiles[..., -1]
        error, mean_error = np.abs(self.actual - median), self.actual - self.mean
        by_level = metrics.pinball_by_level(self.actual, self.quantiles, self.levels)
        pinball = by_level.mean(axis=-1)
        has_season = np.broadcast_to(np.isfinite(seasonal), seen.shape)
        has_naive = np.isfinite(self.naive)
        parts = {
            "count": np.ones_like(error),
            "absolute": error / deviations,
            "squared": (mean_error / deviations) ** 2,
            "absolute_in_units": error,
            "squared_in_units": mean_error**2,
            "pinball": pinball / deviations,
            "pinball_in_units": pinball,
            "magnitude": np.abs(self.actual),
            "inside": (self.actual >= lower) & (self.actual <= upper),
            "promised": np.full_like(error, round(self.levels[-1] - self.levels[0], 10)),
            "width": (upper - lower) / deviations,
            "of_season": np.where(has_season, error / seasonal, 0.0),
            "of_season_count": has_season,
            "compared": np.where(has_naive, error / deviations, 0.0),
            "naive": np.where(has_naive, np.abs(self.actual - self.naive) / deviations, 0.0),
        }
        every = [parts[name] for name in MEASURES] + list(np.moveaxis(by_level / deviations[..., None], -1, 0))
        return np.stack([np.where(seen, part, 0.0) for part in every])


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Live scores of one part of the forecasts; ``None`` where a score is not defined."""

    part: str
    """The part: a lead time, a group such as ``1-24``, a channel, a model version, a series, or ``all``."""
    count: int
    """Number of observed values."""
    mae: float
    """Mean absolute error of the median, in standard deviations."""
    rmse: float
    """Root mean squared error of the mean, in standard deviations."""
    mase: float | None
    """Absolute error of the median over the mean absolute error of the seasonal naive forecast on the fit rows."""
    pinball: float
    """Quantile loss in standard deviations, doubled and averaged over the levels."""
    wql: float | None
    """Weighted quantile loss: the quantile loss in original units over the mean absolute value."""
    coverage: float
    promised_coverage: float
    width: float
    """Mean width of the band, in standard deviations."""
    skill: float | None
    """Relative gain in absolute error of the median over the seasonal naive forecast from the same origin and the rows
    known then."""
    pinball_by_level: dict[str, float]
    """Quantile loss by level, in standard deviations."""
    mae_in_units: float | None
    """Only for parts of a single channel."""
    rmse_in_units: float | None


@dataclass(slots=True)
class Tally:
    """Accumulator of the sums of days whose models may have had different levels.

    >>> tally = Tally()
    >>> tally.add(np.array([2.0, 1.0, *np.ones(len(MEASURES) - 2), 0.5]), [0.5])
    >>> tally.accuracy("all", in_units=False).mae
    0.5
    """

    sums: Array = field(default_factory=lambda: np.zeros(len(MEASURES)))
    by_level: dict[float, tuple[float, float]] = field(default_factory=dict)
    """By level: sum of its loss, and number of values."""

    def add(self, sums: Array, levels: Sequence[float]) -> None:
        """Add sums [len(MEASURES) + Q] of a model with Q levels."""
        self.sums = self.sums + sums[: len(MEASURES)]
        for level, loss in zip(levels, sums[len(MEASURES) :].tolist(), strict=True):
            before, count = self.by_level.get(level, (0.0, 0.0))
            self.by_level[level] = before + loss, count + float(sums[0])

    def accuracy(self, part: str, *, in_units: bool) -> Accuracy | None:
        """Return the averages; ``None`` if nothing was observed."""
        of = dict(zip(MEASURES, self.sums.tolist(), strict=True))
        count = of["count"]
        if not count:
            return None
        return Accuracy(
            part=part,
            count=round(count),
            mae=of["absolute"] / count,
            rmse=math.sqrt(of["squared"] / count),
            mase=of["of_season"] / of["of_season_count"] if of["of_season_count"] else None,
            pinball=of["pinball"] / count,
            wql=of["pinball_in_units"] / of["magnitude"] if of["magnitude"] else None,
            coverage=of["inside"] / count,
            promised_coverage=round(of["promised"] / count, 10),
            width=of["width"] / count,
            skill=skill(of["compared"], of["naive"]) if of["naive"] else None,
            pinball_by_level={
                f"{level:g}": loss / seen for level, (loss, seen) in sorted(self.by_level.items()) if seen
            },
            mae_in_units=of["absolute_in_units"] / count if in_units else None,
            rmse_in_units=math.sqrt(of["squared_in_units"] / count) if in_units else None,
        )
