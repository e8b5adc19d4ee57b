"""Compute a forecast and lay it out in the rows that the lake stores."""

from __future__ import annotations

import numpy as np
import polars as pl

from forecast.config.dataset import DatasetConfig
from forecast.lake.schemas import FORECASTS
from forecast.monitoring.correction import Correction
from forecast.panel import Array, Panel
from forecast.runtime.model import Prediction, ServedModel
from pipelines.forecasting.correct import corrected
from pipelines.forecasting.recursion import extend, seasonal_naive


def forecast_rows(
    model: ServedModel, panel: Panel, config: DatasetConfig, correction: Correction | None = None
) -> tuple[Prediction, pl.DataFrame]:
    """Compute a forecast and its rows, for issuing as well as for recomputing. Raises as :func:`extend`.

    The rows hold the seasonal naive forecast too, and with a correction the quantiles before it (``base``): scoring
    compares them with the issued ones.
    """
    uncorrected = extend(model, panel, config, model.manifest.horizon)
    prediction = corrected(uncorrected, correction, model.manifest, panel.series)
    rows = to_rows(prediction, panel, model).with_columns(
        naive=pl.Series(_flatten(seasonal_naive(panel, config, model.manifest.horizon))),
        base=pl.lit(None, pl.List(pl.Float64)) if correction is None else _lists(_flatten(uncorrected.quantiles)),
    )
    return prediction, rows


def to_rows(prediction: Prediction, panel: Panel, model: ServedModel) -> pl.DataFrame:
    """Return a forecast as rows of series, channel, lead, time, mean, quantiles; the lead varies fastest."""
    horizon, channels = prediction.mean.shape[1:]
    times = [panel.time(panel.steps + lead) for lead in range(horizon)]
    frames = [
        pl.DataFrame({
            "lead": np.arange(1, horizon + 1, dtype=np.int32),
            "time": pl.Series(times, dtype=FORECASTS["time"]),
            "mean": prediction.mean[s, :, c],
            "quantiles": _lists(prediction.quantiles[s, :, c]),
        }).with_columns(series=pl.lit(name), channel=pl.lit(model.manifest.targets[c]))
        for s, name in enumerate(panel.series)
        for c in range(channels)
    ]  # fmt: skip
    return pl.concat(frames)


def _flatten(values: Array) -> Array:
    """Return [S, H, C, ...] in the row order of :func:`to_rows`: [S * C * H, ...]."""
    return np.moveaxis(values, 2, 1).reshape(-1, *values.shape[3:])


def _lists(quantiles: Array) -> pl.Series:
    return pl.Series(quantiles.tolist(), dtype=pl.List(pl.Float64))
