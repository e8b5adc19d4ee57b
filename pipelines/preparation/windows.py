"""Cut a panel into windows: the inputs known at each origin, and the values that were observed after it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from forecast.config.channels import Channel
from forecast.config.dataset import DatasetConfig
from forecast.errors import TrainingError
from forecast.panel import Array, Mask, Panel
from forecast.vocabulary import Fill, Role
from pipelines.preparation.features import known_future
from pipelines.preparation.fill import filled

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a panel whose targets lie within [first, last), as arrays ready for a model.

    N windows, L past steps, H horizon, C targets, P past covariates, F future covariates.
    """

    origins: tuple[datetime, ...]
    series: tuple[str, ...]
    targets: Array
    """[N, L, C]"""
    past: Array
    """[N, L, P]"""
    future: Array
    """[N, L + H, F]: the user's as stored now, because their times of arrival are not stored."""
    actual: Array
    """[N, H, C], NaN where there is no observation."""

    @property
    def digest(self) -> str:
        """SHA-256 of origins, series and actual values."""
        digest = hashlib.sha256(repr((self.origins, self.series)).encode())
        digest.update(np.ascontiguousarray(self.actual).tobytes())
        return digest.hexdigest()


def some(windows: Windows, chosen: Mask | Rows) -> Windows:
    """Return the windows chosen by a mask or by their numbers."""
    place = np.arange(len(windows.series))[chosen]
    return Windows(
        origins=tuple(windows.origins[i] for i in place),
        series=tuple(windows.series[i] for i in place),
        targets=windows.targets[place],
        past=windows.past[place],
        future=windows.future[place],
        actual=windows.actual[place],
    )


def cut(panel: Panel, config: DatasetConfig, first: int, last: int, stride: int = 1) -> Windows:
    """Cut every ``stride``-th window that has complete inputs and whose targets lie in rows [first, last).

    Inputs are those of a forecast issued at the origin: a gap that is open there is filled without later values.

    Raises ``backtest.no_window``.
    """
    lookback, horizon = config.lookback, config.horizon
    targets = _History(panel.targets, panel.observed, config.targets, config)
    past = _History(panel.past, panel.past_observed, config.past_covariates, config)
    given = _History(panel.future, panel.future_observed, config.future_covariates, config)
    begins = np.arange(max(first - lookback, 0), last - lookback - horizon + 1, stride)
    lengths = ((targets, lookback), (past, lookback), (given, lookback + horizon))
    possible = np.logical_and.reduce([history.reach(begins, length) for history, length in lengths])  # [S, begins]
    series, place = np.nonzero(possible)
    inputs = [history.windows(series, begins[place], length) for history, length in lengths]
    whole = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in inputs])
    if not whole.any():
        raise TrainingError(
            "backtest.no_window",
            f"no complete window lies between {panel.time(first)} and {panel.time(last)}",
            "see the gaps in the receipt of the ingestion, or raise fill_limit in the config file",
        )
    if not whole.all():
        series, place, inputs = series[whole], place[whole], [values[whole] for values in inputs]
    rows = begins[place]
    ahead = rows[:, None] + np.arange(lookback + horizon)  # [N, L + H]
    after = (series[:, None], ahead[:, lookback:])
    calendar = np.take(known_future(panel.start, panel.step, panel.steps, config), ahead, axis=0)
    return Windows(
        origins=tuple(panel.time(int(begin) + lookback) for begin in rows),
        series=tuple(panel.series[number] for number in series),
        targets=inputs[0],
        past=inputs[1],
        future=np.concatenate([calendar, inputs[2]], axis=2) if config.future_covariates else calendar,
        actual=np.where(panel.observed[after], panel.targets[after], np.nan),
    )


class _History:
    """Values [S, T, K] of some channels, and their fills from before a gap's end was known."""

    def __init__(self, values: Array, observed: Mask, names: Sequence[str], config: DatasetConfig) -> None:
        self._values = values
        self._observed = observed
        channels = [_while_open(config.channels[name]) for name in names]
        self._open = filled(values, observed, channels, config.season, at_once=True)

    def reach(self, begins: Rows, length: int) -> Mask:
        """Return which windows can be complete, [S, len(begins)]: each of their rows has a value, then or now."""
        lacking = ~(np.isfinite(self._values) | np.isfinite(self._open)).all(axis=2)
        before = np.pad(np.cumsum(lacking, axis=1), ((0, 0), (1, 0)))  # lacking rows before each row
        free: Mask = before[:, begins + length] == before[:, begins]
        return free

    def windows(self, series: Rows, begins: Rows, length: int) -> Array:
        """Return windows [N, length, K], each as known before the row after it."""
        # A gap that reaches the end of a window was open at the origin. Only its rows take the fill of that time:
        #
        #   observed   1 1 0 1 1 0 0 | 1
        #   is_open              1 1 |      the gap in the middle was closed by then, so its fill stays
        #
        rows = begins[:, None] + np.arange(length)
        values: Array = self._values[series[:, None], rows]
        window, channel = np.nonzero(~self._observed[series, rows[:, -1]])
        place = (series[window, None], rows[window], channel[:, None])  # [open gaps, length]
        is_open = np.logical_and.accumulate(~self._observed[place][:, ::-1], axis=1)[:, ::-1]
        inside = (window[:, None], np.arange(length), channel[:, None])
        values[inside] = np.where(is_open, self._open[place], values[inside])
        return values


def _while_open(channel: Channel) -> Channel:
    """Return the channel with the policy that fills a gap before its end is known.

    Beyond the origin a linear fill has no end value, and ``pipelines.forecasting.issue`` does not guess one.
    """
    if channel.role is Role.FUTURE and channel.fill is Fill.LINEAR:
        return channel.model_copy(update={"fill": Fill.NONE})
    return channel
