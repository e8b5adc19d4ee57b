"""Figures of a model's holdout forecasts: examples, error by lead time, residuals by hour, calibration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.metrics import observed_mean
from forecast.evaluation.scores import Evidence
from forecast.panel import Array, Panel
from forecast.plots.backtest import Fan, calibration, fans, residuals
from forecast.plots.charts import by_lead
from forecast.runtime.model import Prediction, ServedModel
from pipelines.preparation.windows import Windows, some

_MOST_WINDOWS = 2000
_ORIGINS = 3
_CHANNELS = 4


def diagnose(
    model: ServedModel, holdout: Windows, panel: Panel, config: DatasetConfig, evidence: Evidence
) -> Iterator[tuple[str, go.Figure]]:
    """Yield names and figures, based on at most 2,000 windows spread evenly over the holdout."""
    count = len(holdout.origins)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_WINDOWS)).astype(int))
    windows = some(holdout, chosen)
    prediction = model.predict(windows.targets, windows.past, windows.future, windows.series)
    name = model.manifest.model_name
    deviations = model.manifest.scaler.deviations(windows.series)[:, None]
    median = prediction.quantiles[..., model.median]
    residual = (windows.actual - median) / deviations  # [N, H, C]
    yield "1 forecasts", _forecasts(model, windows, prediction, panel, config, evidence)
    naive = _seasonal_naive(windows, config) / deviations
    yield "2 error by lead time", by_lead(
        f"{name}: mean absolute error by lead time, {config.frequency} steps", "standard deviations of each channel",
        {name: _by_step(np.abs(residual)), "seasonal naive": _by_step(np.abs(windows.actual / deviations - naive))},
    )  # fmt: skip
    yield "3 residuals by hour and weekday", _by_hour(name, residual, windows, panel, config)
    yield (
        "4 calibration",
        calibration(
            f"{name}: calibration by lead time",
            evidence.levels,
            _shares(windows.actual, prediction.quantiles, evidence),
        ),
    )


def _forecasts(
    model: ServedModel,
    windows: Windows,
    prediction: Prediction,
    panel: Panel,
    config: DatasetConfig,
    evidence: Evidence,
) -> go.Figure:
    hardest = sorted(config.targets, key=lambda name: -np.nan_to_num(evidence.by_channel[name].pinball))[:_CHANNELS]
    shown = [name for name in config.targets if name in hardest]
    picked = np.unique(np.linspace(0, len(windows.origins) - 1, _ORIGINS).astype(int)).tolist()
    before = min(config.lookback, max(config.season, config.horizon))
    places = [0, model.median, -1]
    grid = []
    for name in shown:
        channel = config.targets.index(name)
        line = []
        for window in picked:
            origin = panel.index(windows.origins[window])
            times = [panel.time(row).astimezone(config.tz) for row in range(origin - before, origin + config.horizon)]
            observed = np.concatenate([windows.targets[window, -before:, channel], windows.actual[window, :, channel]])
            line.append(Fan(times, observed, prediction.quantiles[window, :, channel][:, places]))
        grid.append(line)
    labels = [
        f"{windows.series[window]}, {windows.origins[window].astimezone(config.tz):%d %b %Y %H:%M}" for window in picked
    ]
    of = "" if len(shown) == len(config.targets) else f", the {len(shown)} hardest of {len(config.targets)} channels"
    rows = [f"{name} [{config.channels[name].unit}]" if config.channels[name].unit else name for name in shown]
    band = f"{evidence.promised_coverage:.0%} band"
    return fans(f"{evidence.model_version}: forecasts of the holdout{of}", rows, labels, grid, band)


def _seasonal_naive(windows: Windows, config: DatasetConfig) -> Array:
    seasons = -(-config.horizon // config.season)
    return np.tile(windows.targets[:, -config.season :], (1, seasons, 1))[:, : config.horizon]


def _by_step(losses: Array) -> list[float]:
    return [observed_mean(losses[:, lead]) for lead in range(losses.shape[1])]


def _by_hour(name: str, residual: Array, windows: Windows, panel: Panel, config: DatasetConfig) -> go.Figure:
    origins = np.asarray([panel.index(origin) for origin in windows.origins])
    rows = origins[:, None] + np.arange(config.horizon)  # [N, H]
    first = int(rows.min())
    start, step = panel.time(first), panel.step
    local = pl.datetime_range(start, start + step * int(rows.max() - first), step, eager=True)
    local = local.dt.convert_time_zone(config.tz.key)
    hours = 1 if config.counts_days else 24
    # One cell per hour of the week, Monday 00:00 first; daily data have one cell per weekday.
    cell = (local.dt.weekday().cast(pl.Int64) - 1) * hours + local.dt.hour().cast(pl.Int64) % hours
    of = np.repeat(cell.to_numpy()[rows - first].ravel(), residual.shape[2])
    values = residual.ravel()
    seen = np.isfinite(values)
    bias, error = (_means(of[seen], part[seen], 7 * hours) for part in (values, np.abs(values)))
    title = f"{name}: residuals by hour and weekday, {config.tz.key}"
    return residuals(title, bias.reshape(7, hours), error.reshape(7, hours), range(hours))


def _means(of: NDArray[np.int64], values: Array, count: int) -> Array:
    totals, counts = np.bincount(of, values, count), np.bincount(of, minlength=count)
    means: Array = np.divide(totals, counts, out=np.full(count, np.nan), where=counts > 0)
    return means


def _shares(actual: Array, quantiles: Array, evidence: Evidence) -> dict[str, Array]:
    below = np.where(np.isfinite(actual)[..., None], actual[..., None] <= quantiles, np.nan)  # [N, H, C, Q]
    shares, begin = {}, 0
    for end in evidence.group_ends:
        part = below[:, begin:end].reshape(-1, below.shape[-1])
        part = part[np.isfinite(part[:, 0])]
        if len(part):
            shares[f"steps {begin + 1} to {end}"] = part.mean(axis=0)
        begin = end
    return shares
