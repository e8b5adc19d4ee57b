"""Forecasts of any length: beyond the trained horizon the model's median is fed back; the baseline repeats a season."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.panel import Array, Panel
from forecast.runtime.model import Prediction, ServedModel
from pipelines.forecasting.inputs import look_back, require_complete, require_known
from pipelines.preparation.features import Calendar, future_covariates, known_future


@dataclass(frozen=True, slots=True)
class Round:
    """Inputs of one run of the network: the arguments of :meth:`ServedModel.predict`."""

    targets: Array
    """[B, L, C]"""
    past: Array
    """[B, L, P]"""
    future: Array
    """[B, L + H, F]"""
    series: tuple[str, ...]
    scale: Array
    """[B, H, C]"""

    def run(self, model: ServedModel) -> Prediction:
        """Run the network."""
        return model.predict(self.targets, self.past, self.future, self.series, self.scale)


def extend(model: ServedModel, panel: Panel, config: DatasetConfig, horizon: int) -> Prediction:
    """Forecast ``horizon`` steps of every series from the end of a panel: [S, horizon, C].

    Beyond the trained horizon the median is fed back as if it had been observed, and covariates known only up to the
    origin repeat their last season; the bands of such steps are too narrow. Known-future covariates are those of each
    step. Raises ``forecast.short_history``, ``forecast.history_gap`` and ``forecast.future_missing``.
    """
    steps = rounds(model, panel, config, horizon)
    step = next(steps)
    while True:
        try:
            step = steps.send(step.run(model))
        except StopIteration as done:
            whole: Prediction = done.value
            return whole


def rounds(
    model: ServedModel, panel: Panel, config: DatasetConfig, horizon: int, calendar: Calendar = known_future
) -> Generator[Round, Prediction, Prediction]:
    """Yield the runs of a forecast one after the other, receive the result of each, and return the whole forecast.

    The caller decides where the network runs and which windows share a batch: the service batches the runs of several
    requests. Raises as :func:`extend`.
    """
    lookback, trained = model.manifest.lookback, model.manifest.horizon
    if panel.steps < lookback:
        raise DataError(
            "forecast.short_history",
            f"{panel.steps} rows of history are fewer than the look-back of {lookback}",
            "ingest more rows",
        )
    targets, past = look_back(panel, lookback)
    for values, names in ((targets, config.targets), (past, config.past_covariates)):
        require_complete(values, panel, names)
    # The scale is taken before anything is fed back: medians vary less than observations.
    scale = model.scales(targets, panel.series, horizon + trained)
    # Each round moves the window by the trained horizon:  [ look-back | future ] -> [ look-back, median | future ]
    parts: list[Prediction] = []
    for begin in range(0, horizon, trained):
        first = panel.steps - lookback + begin
        future = future_covariates(panel, config, first, first + lookback + trained, calendar)
        require_known(future, panel, config, first)
        parts.append((yield Round(targets, past, future, panel.series, scale[:, begin : begin + trained])))
        if begin + trained >= horizon:
            break
        median = parts[-1].quantiles[..., model.median]
        targets = np.concatenate([targets, median], axis=1)[:, -lookback:]
        seasons = -(-trained // config.season)
        repeated = np.tile(past[:, -config.season :], (1, seasons, 1))[:, :trained]
        past = np.concatenate([past, repeated], axis=1)[:, -lookback:]
    return Prediction(
        np.concatenate([part.mean for part in parts], axis=1)[:, :horizon],
        np.concatenate([part.quantiles for part in parts], axis=1)[:, :horizon],
    )


def seasonal_naive(panel: Panel, config: DatasetConfig, horizon: int) -> Array:
    """Repeat the last season of a panel's targets: [S, horizon, C]; NaN where it has a gap or is too short."""
    season = panel.targets[:, -config.season :]
    if season.shape[1] < config.season:
        return np.full((len(panel.series), horizon, len(config.targets)), np.nan)
    return np.asarray(season[:, np.arange(horizon) % config.season])
