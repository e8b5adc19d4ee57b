"""Forecast held-out origins with the exported model, by the code that serves: what is scored is what is issued."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from forecast.errors import TrainingError
from forecast.evaluation import Backtest
from forecast.jobs import DatasetJob
from forecast.panel import Array, Panel
from forecast.runtime import Calibration, Scaler, ServedModel
from forecast.vocabulary import parse_duration
from pipelines.features import known_future

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Slices:
    """Row numbers that cut a panel in time order: fit [0, fit), then early stopping, calibration, holdout."""

    fit: int
    validation: int
    calibration: int
    holdout: int

    @classmethod
    def of(cls, panel: Panel, job: DatasetJob) -> Slices:
        """Measure the job file's splits back from the end of the panel.

        Raises ``training.too_short`` if nothing is left to fit on.
        """
        rows = [
            int(parse_duration(getattr(job.splits, part)) / job.step)
            for part in ("validation", "calibration", "holdout")
        ]
        slices = cls(panel.steps - sum(rows), panel.steps - sum(rows[1:]), panel.steps - rows[2], panel.steps)
        needed = job.lookback + job.horizon
        if slices.fit < needed:
            raise TrainingError(
                "training.too_short",
                f"{max(slices.fit, 0)} rows are left to fit on, but one window takes {needed} "
                f"(look-back {job.lookback} + horizon {job.horizon})",
                "bring in a longer history, or shorten lookback, horizons or splits in the job file",
            )
        return slices


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a panel whose targets lie within [first, last), as arrays ready for a model."""

    origins: tuple[datetime, ...]
    series: tuple[str, ...]
    targets: Array
    past: Array
    future: Array
    actual: Array

    @property
    def digest(self) -> str:
        """SHA-256 over origins, series and what happened."""
        digest = hashlib.sha256(repr((self.origins, self.series)).encode())
        digest.update(np.ascontiguousarray(self.actual).tobytes())
        return digest.hexdigest()


def cut(panel: Panel, job: DatasetJob, first: int, last: int, stride: int = 1) -> Windows:
    """Cut every ``stride``-th window whose look-back is whole and whose targets lie in rows [first, last)."""
    lookback, horizon = job.lookback, job.horizon
    begins = np.arange(max(first - lookback, 0), last - lookback - horizon + 1, stride)
    calendar = known_future(panel.start, panel.step, panel.steps, job)
    truth = np.where(panel.observed, panel.targets, np.nan)

    def windows(values: Array, length: int, starts: np.ndarray) -> Array:
        return np.ascontiguousarray(sliding_window_view(values, length, axis=0)[starts].swapaxes(1, 2))

    targets, past, future, actual, origins, series = [], [], [], [], [], []
    for number, name in enumerate(panel.series):
        known = np.concatenate([panel.targets[number], panel.past[number]], axis=1)
        whole = np.isfinite(known).all(axis=1)
        usable = begins[sliding_window_view(whole, lookback)[begins].all(axis=1)] if len(begins) else begins
        seen = windows(known, lookback, usable)
        if panel.interpolated is not None:
            seen = _as_known_then(seen, known, panel.interpolated[number], usable + lookback - 1)
        targets.append(seen[..., : panel.targets.shape[2]])
        past.append(seen[..., panel.targets.shape[2] :])
        future.append(windows(calendar, lookback + horizon, usable))
        actual.append(windows(truth[number], horizon, usable + lookback))
        origins += [panel.time(int(begin) + lookback) for begin in usable]
        series += [name] * len(usable)
    if not series:
        raise TrainingError(
            "backtest.no_window",
            f"no whole window lies between {panel.time(first)} and {panel.time(last)}",
            "see the gaps in the ingestion's receipt, or raise fill_limit in the job file",
        )
    return Windows(
        tuple(origins),
        tuple(series),
        np.concatenate(targets),
        np.concatenate(past),
        np.concatenate(future),
        np.concatenate(actual),
    )


def _as_known_then(seen: Array, known: Array, interpolated: NDArray[np.bool_], last: NDArray[np.int_]) -> Array:
    """Put back what look-backs [N, L, K] that end in a gap looked like before the gap's other side was known.

    There the last observed value stands, as it does when a forecast is issued: an interpolated one would be a glance
    ahead. ``last`` is the last row of each look-back.
    """
    rows = np.arange(len(known))[:, None]
    before = np.maximum.accumulate(np.where(interpolated, -1, rows), axis=0)  # the latest row that is not interpolated
    gap = (rows - before)[last]  # [N, K]
    carried = np.take_along_axis(known, np.maximum(before, 0), axis=0)[last]
    is_in_gap = np.arange(seen.shape[1])[None, :, None] >= seen.shape[1] - gap[:, None, :]
    return np.where(is_in_gap, carried[:, None, :], seen)


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
