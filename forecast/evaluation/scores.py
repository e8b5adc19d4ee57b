"""Evidence: the scores of a model on held-out windows, for the promotion decision and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
from pydantic import ConfigDict

from forecast.evaluation import metrics
from forecast.panel import Array, Mask, Panel
from forecast.runtime.scaler import Scaler
from forecast.runtime.smoke_test import SmokeTest
from forecast.strict import StrictModel

_DIGITS = 7
"""Significant digits of stored numbers. Verdicts use the stored numbers, so that they can be repeated."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Scales of the losses, from the rows that a night's models were fitted on; the same for all compared models."""

    deviations: Mapping[str, tuple[float, ...]]
    """Standard deviation by series, of each target. Losses divided by it can be averaged over channels."""
    naive_errors: Mapping[str, tuple[float, ...]]
    """Mean absolute error of the seasonal naive forecast by series, of each target: the unit of MASE. NaN where that
    forecast was perfect or never possible."""

    @classmethod
    def fit(cls, panel: Panel, scaler: Scaler, season: int, last: int) -> Self:
        """Compute the scales of rows [0, last); ``scaler`` is fitted on the same rows."""
        deviations, naive = {}, {}
        values = np.where(panel.observed, panel.targets, np.nan)[:, :last]
        for number, name in enumerate(panel.series):
            deviations[name] = scaler.targets[name][1]
            steps = np.abs(values[number, season:] - values[number, :-season])
            errors = [metrics.observed_mean(steps[:, channel]) for channel in range(steps.shape[1])]
            naive[name] = tuple(error if error > 0 else float("nan") for error in errors)
        return cls(deviations, naive)


@dataclass(frozen=True, slots=True)
class Backtest:
    """Forecasts of many origins beside the observations, in original units.

    N windows (origins times series), H steps, C channels, Q quantiles.
    """

    origins: tuple[datetime, ...]
    """[N], first forecast time of each window."""
    series: tuple[str, ...]
    """[N]"""
    actual: Array
    """[N, H, C]; NaN where no value was observed."""
    mean: Array
    """[N, H, C]"""
    quantiles: Array
    """[N, H, C, Q]"""
    levels: tuple[float, ...]
    deviations: Array
    """[N, C], see :class:`Yardstick`."""
    naive_errors: Array
    """[N, C], see :class:`Yardstick`."""


class _Stored(StrictModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Scores(_Stored):
    """Scores of a part of a backtest; NaN if nothing in it was observed."""

    mse: float
    """Mean squared error of the mean forecast, in squared standard deviations."""
    mae: float
    """Mean absolute error of the median, in standard deviations."""
    rmse: float
    """Root of ``mse``."""
    mase: float
    """Absolute error of the median over that of the seasonal naive forecast on the fit rows."""
    smape: float
    """Symmetric absolute percentage error of the median, from 0 to 2."""
    pinball: float
    """Quantile loss in standard deviations, doubled and averaged over the levels: with many levels, the CRPS."""
    wql: float
    """Weighted quantile loss: the quantile loss in original units over the mean absolute value."""
    coverage: float
    """Share of values between the outermost quantiles."""
    width: float
    """Mean width of the band between the outermost quantiles, in standard deviations."""


class ChannelScores(Scores):
    """Scores of one channel, also in the unit of the channel."""

    mae_in_units: float
    rmse_in_units: float


class Evidence(_Stored):
    """The scores of one model on one set of held-out windows."""

    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({"rehearsal": "smoke_test"})

    model_name: str
    model_version: str
    origins_digest: str
    """SHA-256 of the scored windows; only evidence with equal digests may be compared."""
    windows: int
    levels: tuple[float, ...]
    is_finite: bool
    """Whether all forecasts are finite."""
    by_horizon: dict[int, Scores]
    """Scores of the steps up to each horizon of the config file, ascending."""
    by_channel: dict[str, ChannelScores]
    by_series: dict[str, Scores]
    by_lead: dict[str, tuple[float, ...]]
    """One value per lead time, by name of the score."""
    pinball_by_level: tuple[float, ...]
    """Scaled loss, one value per level."""
    group_ends: tuple[int, ...]
    """Last lead time of each group of lead times."""
    group_coverage: dict[str, tuple[float, ...]]
    """Coverage by channel, of each group of lead times."""
    group_losses: tuple[tuple[float, ...], ...]
    """By group of lead times: the scaled pinball loss of each origin in time order, averaged over series, channels and
    the group's lead times. Origins without an observation there are left out."""
    smoke_test: SmokeTest

    @property
    def overall(self) -> Scores:
        """Scores of all steps."""
        return self.by_horizon[max(self.by_horizon)]

    @property
    def pinball(self) -> float:
        """The loss that ranks models."""
        return self.overall.pinball

    @property
    def promised_coverage(self) -> float:
        """Nominal coverage: the share of values that the outermost quantiles should enclose."""
        return round(self.levels[-1] - self.levels[0], 10)


def lead_groups(horizons: Sequence[int]) -> tuple[int, ...]:
    """Return the last lead time of each group for comparisons: the horizons, or the quarters of a single one.

    >>> lead_groups((24, 168, 336))
    (24, 168, 336)
    >>> lead_groups((96,))
    (24, 48, 72, 96)
    """
    if len(horizons) > 1:
        return tuple(horizons)
    (horizon,) = horizons
    return tuple(sorted({max(horizon * quarter // 4, 1) for quarter in (1, 2, 3, 4)}))


def score(
    name: str,
    version: str,
    digest: str,
    result: Backtest,
    channels: Sequence[str],
    horizons: Sequence[int],
    smoke_test: SmokeTest,
) -> Evidence:
    """Score a backtest; each observed value of each window counts once."""
    losses = _Losses.of(result)
    ends = lead_groups(horizons)
    begins = (0, *ends[:-1])
    series = np.asarray(result.series)
    leads = [losses.part(np.s_[:, [lead]]).scores() for lead in range(result.actual.shape[1])]
    return Evidence(
        model_name=name,
        model_version=version,
        origins_digest=digest,
        windows=len(result.origins),
        levels=result.levels,
        is_finite=bool(np.isfinite(result.quantiles).all() and np.isfinite(result.mean).all()),
        by_horizon={horizon: Scores(**losses.part(np.s_[:, :horizon]).scores()) for horizon in horizons},
        by_channel={
            channel: ChannelScores(**part.scores(), **part.in_units())
            for number, channel in enumerate(channels)
            for part in (losses.part(np.s_[:, :, [number]]),)
        },
        by_series={str(one): Scores(**losses.part(np.s_[series == one]).scores()) for one in np.unique(series)},
        by_lead={name: tuple(lead[name] for lead in leads) for name in Scores.model_fields},
        pinball_by_level=tuple(_rounded(metrics.observed_mean(part)) for part in np.moveaxis(losses.by_level, -1, 0)),
        group_ends=ends,
        group_coverage={
            channel: tuple(
                _rounded(metrics.observed_mean(losses.inside[:, begin:end, number]))
                for begin, end in zip(begins, ends, strict=True)
            )
            for number, channel in enumerate(channels)
        },
        group_losses=_by_origin(
            losses.by_level.mean(axis=-1), np.isfinite(result.actual), result.origins, begins, ends
        ),
        smoke_test=smoke_test,
    )


@dataclass(frozen=True, slots=True)
class _Losses:
    """Losses of each value [N, H, C], NaN where no value was observed.

    A score of any part of the backtest is the mean over a slice of these arrays::

                            C channels
                          +-----------+
        N windows      /  | one value |   part(np.s_[:, :24])          lead times 1 to 24
        (origin,      /   |  = one    |   part(np.s_[:, [lead]])       one lead time
         series)     /    |    loss   |   part(np.s_[:, :, [number]])  one channel
                          +-----------+   part(np.s_[series == name])  one series
                           H lead times
    """

    error: Array
    """Error of the median, in original units."""
    mean_error: Array
    """Error of the mean, in original units."""
    by_level: Array
    """[N, H, C, Q], quantile loss in standard deviations, doubled."""
    inside: Array
    """1 if the value lies inside the band, else 0."""
    width: Array
    """Width of the band, in standard deviations."""
    magnitude: Array
    """Absolute value of the observation, in original units."""
    symmetric: Array
    """2 |actual - median| / (|actual| + |median|), the term of sMAPE; 0 where both are 0."""
    deviations: Array
    """Standard deviation of the window's series and channel: [N, 1, C] broadcast over the lead times."""
    naive_errors: Array
    """The same for the error of the seasonal naive forecast."""

    @classmethod
    def of(cls, result: Backtest) -> Self:
        # NaN in `actual` spreads by arithmetic. Where a comparison or a constant would hide it, np.where(seen, ...)
        # restores it, so that observed_mean leaves the value out of every score.
        actual, quantiles, levels = result.actual, result.quantiles, result.levels
        median = quantiles[..., levels.index(0.5)]
        seen = np.isfinite(actual)
        deviations = np.broadcast_to(result.deviations[:, None], actual.shape)
        by_level = metrics.pinball_by_level(actual, quantiles, levels) / deviations[..., None]
        lower, upper = quantiles[..., 0], quantiles[..., -1]
        size = np.abs(actual) + np.abs(median)
        return cls(
            error=actual - median,
            mean_error=actual - result.mean,
            by_level=by_level,
            inside=np.where(seen, (actual >= lower) & (actual <= upper), np.nan),
            width=np.where(seen, upper - lower, np.nan) / deviations,
            magnitude=np.abs(actual),
            symmetric=2.0 * np.divide(np.abs(actual - median), size, out=np.where(seen, 0.0, np.nan), where=size > 0),
            deviations=deviations,
            naive_errors=np.broadcast_to(result.naive_errors[:, None], actual.shape),
        )

    def part(self, place: object) -> _Losses:
        """Return the losses of a slice of windows, lead times and channels."""
        return _Losses(**{name: getattr(self, name)[place] for name in self.__slots__})

    def scores(self) -> dict[str, float]:
        absolute = np.abs(self.error)
        mse = metrics.observed_mean((self.mean_error / self.deviations) ** 2)
        scaled = self.by_level.mean(axis=-1)
        size = metrics.observed_mean(self.magnitude)
        values = {
            "mse": mse,
            "mae": metrics.observed_mean(absolute / self.deviations),
            "rmse": mse**0.5,
            "mase": metrics.observed_mean(absolute / self.naive_errors),
            "smape": metrics.observed_mean(self.symmetric),
            "pinball": metrics.observed_mean(scaled),
            "wql": metrics.observed_mean(scaled * self.deviations) / size if size > 0 else float("nan"),
            "coverage": metrics.observed_mean(self.inside),
            "width": metrics.observed_mean(self.width),
        }
        return {name: _rounded(value) for name, value in values.items()}

    def in_units(self) -> dict[str, float]:
        return {
            "mae_in_units": _rounded(metrics.observed_mean(np.abs(self.error))),
            "rmse_in_units": _rounded(metrics.observed_mean(self.mean_error**2) ** 0.5),
        }


def _by_origin(
    losses: Array, observed: Mask, origins: Sequence[datetime], begins: Sequence[int], ends: Sequence[int]
) -> tuple[tuple[float, ...], ...]:
    """Average losses [N, H, C] per group of lead times and origin; the mean weighs each observed value alike."""
    number = {origin: place for place, origin in enumerate(sorted(set(origins)))}
    of = np.asarray([number[origin] for origin in origins])
    means = []
    for begin, end in zip(begins, ends, strict=True):
        part, seen = losses[:, begin:end], observed[:, begin:end]
        sums = np.bincount(of, np.where(seen, part, 0.0).sum(axis=(1, 2)), len(number))
        counts = np.bincount(of, seen.sum(axis=(1, 2)), len(number))
        means.append((sums[counts > 0] / counts[counts > 0]).tolist())
    return tuple(tuple(_rounded(value) for value in group) for group in means)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
