"""Forecast held-out origins with the exported model, by the code that serves: what is scored is what is issued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import numpy as np

from forecast.evaluation import Backtest
from forecast.panel import Array
from forecast.runtime import Calibration, ServedModel
from forecast.scaling import Scaler
from pipelines.windows import Windows

_BATCH = 256


def backtest(model: ServedModel, windows: Windows, unit: Scaler | None = None) -> Backtest:
    """Forecast every window in batches, in original units.

    Scores are to be told in deviations of ``unit``, one scaler for all models that are compared; the model's own if
    it stands alone.
    """
    parts = [
        model.predict(windows.targets[part], windows.past[part], windows.future[part], windows.series[part])
        for part in _batches(len(windows.series))
    ]
    return Backtest(
        origins=windows.origins,
        series=windows.series,
        actual=windows.actual,
        mean=np.concatenate([part.mean for part in parts]),
        quantiles=np.concatenate([part.quantiles for part in parts]),
        levels=model.manifest.quantiles,
        deviations=(unit or model.manifest.scaler).deviations(windows.series),
    )


def calibrate(model: ServedModel, windows: Windows, season: timedelta) -> Calibration:
    """Find the offsets that make the model's quantiles cover what they promise on these windows.

    Lead times are grouped by day, or by eight groups if the horizon is shorter than eight days, so that each offset
    rests on many values.
    """
    manifest = model.manifest
    horizon = manifest.horizon
    per_day = max(int(season / timedelta(seconds=manifest.step_seconds)), 1)
    group = min(per_day, -(-horizon // 8))
    raw = np.concatenate([
        model.scaled_quantiles(windows.targets[part], windows.past[part], windows.future[part], windows.series[part])
        for part in _batches(len(windows.series))
    ])  # fmt: skip
    means, deviations = manifest.scaler.means(windows.series), manifest.scaler.deviations(windows.series)
    error = ((windows.actual - means[:, None]) / deviations[:, None])[..., None] - raw  # [N, H, C, Q]
    quantile_offsets, mean_offsets = [], []
    for begin in range(0, horizon, group):
        part = error[:, begin : begin + group]
        quantile_offsets.append(tuple(_offsets(part[:, :, c], manifest.quantiles) for c in range(part.shape[2])))
        medians = part[..., model.median].reshape(-1, part.shape[2])
        mean_offsets.append(tuple(_mean(medians[:, c]) for c in range(part.shape[2])))
    return Calibration(group=group, quantile_offsets=tuple(quantile_offsets), mean_offsets=tuple(mean_offsets))


def _offsets(error: Array, levels: tuple[float, ...]) -> tuple[float, ...]:
    flat = error.reshape(-1, error.shape[-1])
    flat = flat[np.isfinite(flat[:, 0])]
    if len(flat) == 0:
        return tuple(0.0 for _ in levels)
    return tuple(float(np.quantile(flat[:, q], level)) for q, level in enumerate(levels))


def _mean(values: Array) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else 0.0


def _batches(count: int) -> Iterator[slice]:
    return (slice(begin, begin + _BATCH) for begin in range(0, count, _BATCH))
