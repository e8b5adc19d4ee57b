"""What a model was fitted on, as far as its live forecasts are judged by it; kept once per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import ConfigDict

from forecast.panel import Array
from forecast.strict import StrictModel

_BINS = 10


class Spread(StrictModel):
    """How an input's scaled values were spread on the fit rows."""

    edges: tuple[float, ...]
    """Between the bins, ascending: deciles of the fit rows, each once."""
    shares: tuple[float, ...]
    """Of the fit rows' values, one more than edges."""
    usual: float
    """The shift (:meth:`shift`) that 99 in 100 stretches of the fit rows stay below, each as long as the recent rows
    that are compared: a season or a quiet week is no drift."""

    @classmethod
    def of(cls, values: Array, length: int) -> Spread | None:
        """Describe scaled values [S, T], NaN where none was observed; ``None`` if there are none."""
        seen = values[np.isfinite(values)]
        if not seen.size:
            return None
        edges = np.unique(np.quantile(seen, np.arange(1, _BINS) / _BINS))
        alone = cls(edges=tuple(edges.tolist()), shares=tuple(_shares(seen, edges).tolist()), usual=0.0)
        shifts = [alone.shift(values[:, begin : begin + length]) for begin in _begins(values.shape[1], length)]
        known = [shift for shift in shifts if shift is not None]
        return alone.model_copy(update={"usual": float(np.quantile(known, 0.99)) if known else 0.0})

    def shift(self, values: Array) -> float | None:
        """Return the population stability index of scaled values against the fit rows; ``None`` without values.

        The sum over bins of (share now - share then) * log of their ratio: the symmetric divergence of the two.
        """
        seen = values[np.isfinite(values)]
        if not seen.size:
            return None
        now, then = _shares(seen, np.asarray(self.edges)), np.asarray(self.shares)
        return float(((now - then) * np.log(now / then)).sum())


class Holdout(StrictModel):
    """How a model did on the holdout that it was promoted for, whose origins lie a step apart."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    loss_by_channel: dict[str, float]
    """Quantile loss in deviations."""
    losses_by_group: dict[int, tuple[float, ...]]
    """By last lead time of a group: that of each origin in time order."""


class Reference(StrictModel):
    """What one model version was fitted on, and how well it did when it was promoted."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    moments: dict[str, dict[str, tuple[float, float]]]
    """By channel, target or past covariate, and series: mean and standard deviation."""
    naive_errors: dict[str, dict[str, float]]
    """By target and series: mean absolute error of the seasonal naive forecast; NaN where it is not known."""
    spreads: dict[str, Spread]
    """By channel, over all series: targets and past covariates."""
    holdout: Holdout | None = None
    """``None`` if no night is known that promoted it."""

    def deviations_of(self, series: Sequence[str], channels: Sequence[str]) -> Array:
        """Return standard deviations [S, C]; NaN for a series or channel that the model never saw."""
        return _table(
            {name: {one: pair[1] for one, pair in message.items()} for name, message in self.moments.items()},
            series,
            channels,
        )

    def naive_errors_of(self, series: Sequence[str], channels: Sequence[str]) -> Array:
        """Return the errors of the seasonal naive forecast [S, C]; NaN where they are not known."""
        return _table(self.naive_errors, series, channels)


def _table(message: Mapping[str, Mapping[str, float]], series: Sequence[str], channels: Sequence[str]) -> Array:
    rows = [[message.get(channel, {}).get(one, np.nan) for channel in channels] for one in series]
    return np.asarray(rows, dtype=float).reshape(len(series), len(channels))


def _begins(steps: int, length: int) -> Sequence[int]:
    return range(0, steps - length + 1, max(length // 2, 1))


def _shares(seen: Array, edges: Array) -> Array:
    # Half a value more in each bin: an empty one would make the index infinite.
    counts = np.bincount(np.searchsorted(edges, seen, side="left"), minlength=len(edges) + 1) + 0.5
    return np.asarray(counts / counts.sum())
