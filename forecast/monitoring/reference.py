"""Reference of a model: the statistics of its fit rows and holdout that live data are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import ConfigDict

from forecast.panel import Array
from forecast.strict import StrictModel

_BINS = 10


class Spread(StrictModel):
    """Distribution of an input's scaled values on the fit rows, as a histogram.

    >>> spread = Spread.of(np.linspace(-1.0, 1.0, 500)[None], length=50)
    >>> spread.shift(np.linspace(-1.0, 1.0, 500)) < 0.01 < 1.0 < spread.shift(np.linspace(1.0, 2.0, 500))
    True
    """

    edges: tuple[float, ...]
    """Edges between the bins, ascending: the distinct deciles of the fit rows."""
    shares: tuple[float, ...]
    """Share of the fit rows in each bin; one more than edges."""
    usual: float
    """The 99th percentile of :meth:`shift` over stretches of the fit rows as long as the recent rows that are compared:
    a season or a quiet week is no drift."""

    @classmethod
    def of(cls, values: Array, length: int) -> Spread | None:
        """Return the distribution of scaled values [S, T], NaN where none was observed; ``None`` without values."""
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

        It is the sum over bins of (share now - share then) * log(share now / share then), a symmetric divergence.
        """
        seen = values[np.isfinite(values)]
        if not seen.size:
            return None
        now, then = _shares(seen, np.asarray(self.edges)), np.asarray(self.shares)
        return float(((now - then) * np.log(now / then)).sum())


class Holdout(StrictModel):
    """Losses of a model on the holdout that it was promoted on, whose origins lie one step apart."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    loss_by_channel: dict[str, float]
    """Quantile loss by channel, in standard deviations."""
    losses_by_group: dict[int, tuple[float, ...]]
    """Quantile loss of each origin in time order, by last lead time of a group."""


class Reference(StrictModel):
    """Statistics of a model version's fit rows, and its losses when it was promoted; stored once per version."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    moments: dict[str, dict[str, tuple[float, float]]]
    """Mean and standard deviation by channel (target or past covariate), then series."""
    naive_errors: dict[str, dict[str, float]]
    """Mean absolute error of the seasonal naive forecast by target, then series; NaN where it is unknown."""
    spreads: dict[str, Spread]
    """Distribution by channel (target or past covariate), over all series."""
    holdout: Holdout | None = None
    """``None`` if the night that promoted the model is unknown."""

    def deviations_of(self, series: Sequence[str], channels: Sequence[str]) -> Array:
        """Return standard deviations [S, C]; NaN for a series or channel that the model was not fitted on."""
        return _table(
            {name: {one: pair[1] for one, pair in by_series.items()} for name, by_series in self.moments.items()},
            series,
            channels,
        )

    def naive_errors_of(self, series: Sequence[str], channels: Sequence[str]) -> Array:
        """Return mean absolute errors of the seasonal naive forecast [S, C]; NaN where they are unknown."""
        return _table(self.naive_errors, series, channels)


def _table(values: Mapping[str, Mapping[str, float]], series: Sequence[str], channels: Sequence[str]) -> Array:
    rows = [[values.get(channel, {}).get(one, np.nan) for channel in channels] for one in series]
    return np.asarray(rows, dtype=float).reshape(len(series), len(channels))


def _begins(steps: int, length: int) -> Sequence[int]:
    return range(0, steps - length + 1, max(length // 2, 1))


def _shares(seen: Array, edges: Array) -> Array:
    # Half a value more per bin: an empty bin would make the index infinite.
    counts = np.bincount(np.searchsorted(edges, seen, side="left"), minlength=len(edges) + 1) + 0.5
    return np.asarray(counts / counts.sum())
