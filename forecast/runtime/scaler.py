"""Standardise each series and channel to mean zero and deviation one, by moments stored with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field

from forecast.errors import DataError
from forecast.panel import Array, Panel
from forecast.strict import StrictModel

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations of the channels, in their order."""


class Scaler(StrictModel):
    """Mean and standard deviation of each series and channel, fitted on the rows that the model is fitted on.

    >>> scaler = Scaler(targets={"a": ((10.0,), (2.0,))}, past={"a": ((), ())})
    >>> scaler.scale_targets(np.asarray([[[10.0], [14.0]]]), ["a"]).ravel().tolist()
    [0.0, 2.0]
    """

    targets: dict[str, Moments]
    """Moments of the target channels by series."""
    past: dict[str, Moments]
    future: dict[str, Moments] = Field(default_factory=dict)
    """The user's future covariates; the calendar's are not scaled. Empty if there are none."""
    statics: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Values of the static covariates, standardised over the series. Empty if there are none."""

    @classmethod
    def fit(cls, panel: Panel, last: int) -> Self:
        """Fit on rows [0, last). A constant channel gets deviation 1, so that scaling never divides by zero.

        Raises ``training.static_missing`` if only some of the series have static covariates.
        """

        def moments(values: Array) -> dict[str, Moments]:
            return {name: _moments(values[i, :last]) for i, name in enumerate(panel.series)}

        return cls(
            targets=moments(panel.targets),
            past=moments(panel.past),
            future=moments(panel.future) if panel.future.shape[2] else {},
            statics=_standardised(panel) if panel.statics.shape[1] else {},
        )

    def scale_targets(self, values: Array, series: Sequence[str]) -> Array:
        """[len(series), T, C] in original units -> scaled."""
        return _scaled(values, [self.targets[name] for name in series])

    def scale_past(self, values: Array, series: Sequence[str]) -> Array:
        """[len(series), T, P] in original units -> scaled."""
        return _scaled(values, [self.past[name] for name in series])

    def scale_future(self, values: Array, series: Sequence[str]) -> Array:
        """[len(series), T, F]: the calendar's covariates, then the user's in original units -> all scaled."""
        if not self.future:
            return values
        moments = [self.future[name] for name in series]
        calendar = values.shape[2] - len(moments[0][0])
        return np.concatenate([values[..., :calendar], _scaled(values[..., calendar:], moments)], axis=2)

    def deviations(self, series: Sequence[str]) -> Array:
        """Return the targets' standard deviations, [len(series), C]."""
        return np.asarray([self.targets[name][1] for name in series])

    def means(self, series: Sequence[str]) -> Array:
        """Return the targets' means, [len(series), C]."""
        return np.asarray([self.targets[name][0] for name in series])


def _scaled(values: Array, moments: Sequence[Moments]) -> Array:
    means, deviations = (np.asarray([pair[place] for pair in moments])[:, None] for place in (0, 1))
    return np.asarray((values - means) / deviations)


def _standardised(panel: Panel) -> dict[str, tuple[float, ...]]:
    without = [name for name, row in zip(panel.series, panel.statics, strict=True) if not np.isfinite(row).all()]
    if without:
        raise DataError(
            "training.static_missing",
            f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no static covariates; other series do",
            "set the same static covariates for every series under statics in the config file",
        )
    (scaled,) = _scaled(panel.statics[None], [_moments(panel.statics)])
    return dict(zip(panel.series, map(tuple, scaled.tolist()), strict=True))


def _moments(values: Array) -> Moments:
    finite = np.isfinite(values)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, values, 0.0).sum(axis=0) / count
    variance = np.where(finite, (values - mean) ** 2, 0.0).sum(axis=0) / count
    deviation = np.sqrt(variance)
    deviation[deviation <= 1e-9 * np.abs(mean)] = 1.0  # constant up to rounding, in any unit
    return tuple(mean.tolist()), tuple(deviation.tolist())
