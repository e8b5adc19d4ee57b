"""Estimate a correction of the champion's quantiles from recent observations, and apply it to forecasts."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.evaluation.scores import lead_groups
from forecast.installation import Dataset
from forecast.ledger.issuances import Issued
from forecast.monitoring.correction import Correction, offsets_of
from forecast.monitoring.reference import Reference
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import Prediction
from pipelines.forecasting.issued import Actuals, Served, read_served

_WINDOW = timedelta(days=14)
_LEAST_STEPS = 100
_MOST_POINTS = 1_500_000


def window(config: DatasetConfig) -> int:
    """Return the number of newest steps that a correction is estimated from: two weeks, but at least 100 steps."""
    return max(_WINDOW // config.step, _LEAST_STEPS)


def correct(dataset: Dataset, issued: list[Issued], actuals: Actuals, fitted: Reference) -> int | None:
    """Estimate a model's correction from its issued forecasts and store it; returns its number, or ``None``.

    Of many overlapping forecasts only every n-th is read: they differ little on the same steps.
    """
    config = dataset.config
    first = len(actuals.values) - window(config)
    points = config.horizon * max(len(actuals.series) * len(config.targets), 1)
    near = [
        (number, one) for number, one in enumerate(issued)
        if first < actuals.row(one.origin) + one.horizon and actuals.row(one.origin) < len(actuals.values)
    ]  # fmt: skip
    every = -(-len(near) * points // _MOST_POINTS)
    # Chosen by position among all forecasts of the model, so that every night chooses the same ones.
    taken = [one for number, one in near if number % max(every, 1) == 0]
    if not taken:
        return None
    ((_, served),) = read_served(dataset, [taken], actuals)
    correction = _correction(served, actuals, fitted, config, first)
    latest = dataset.ledger.corrections.latest(dataset.name, correction.model_version)
    if latest is None and not correction.moves:
        return None
    return dataset.ledger.corrections.add(dataset.name, correction, SystemClock().now())


def applicable(dataset: Dataset, manifest: Manifest, origin: datetime) -> tuple[int, Correction] | None:
    """Return the model's latest correction and its number, if it applies to a forecast from ``origin``.

    A correction without observations for a whole window is too old.
    """
    config = dataset.config
    latest = dataset.ledger.corrections.latest(dataset.name, manifest.model_version) if config.live_correction else None
    if latest is None:
        return None
    _, correction = latest
    fits = (correction.channels, correction.levels) == (manifest.targets, manifest.quantiles)
    is_fresh = origin - correction.until <= config.step * window(config)
    return latest if fits and is_fresh and correction.moves else None


def corrected(
    prediction: Prediction, correction: Correction | None, manifest: Manifest, series: tuple[str, ...]
) -> Prediction:
    """Apply a correction to the quantiles [S, H, C, Q], clipped to the channels' bounds; the mean stays."""
    if correction is None:
        return prediction
    quantiles = correction.apply(prediction.quantiles, manifest.scaler.deviations(series))
    for number, (lower, upper) in enumerate(zip(manifest.lower, manifest.upper, strict=True)):
        quantiles[..., number, :] = np.clip(quantiles[..., number, :], lower, upper)
    return Prediction(prediction.mean, quantiles)


def _correction(served: Served, actuals: Actuals, fitted: Reference, config: DatasetConfig, first: int) -> Correction:
    ends = tuple(end for end in lead_groups(config.horizons) if end <= served.actual.shape[3]) or (
        served.actual.shape[3],
    )
    levels = served.issued[0].levels
    deviations = fitted.deviations_of(actuals.series, config.targets)
    deviations = np.broadcast_to(deviations[None, :, :, None], served.actual.shape)
    rows = np.broadcast_to(served.rows[:, None, None], served.actual.shape)
    is_known = np.isfinite(served.actual) & np.isfinite(served.base).all(axis=-1) & (rows >= first)
    offsets, seen = [], []
    for begin, end in zip((0, *ends), ends, strict=False):
        found = []
        for channel in range(len(config.targets)):
            part = np.s_[:, :, channel, begin:end]
            kept = is_known[part]
            found.append(
                offsets_of(
                    served.actual[part][kept], served.base[part][kept], deviations[part][kept], rows[part][kept], levels
                )
            )
        offsets.append(tuple(one for one, _ in found))
        seen.append(tuple(count for _, count in found))
    return Correction(
        model_version=served.issued[0].model_version, until=actuals.end, channels=config.targets, levels=levels,
        ends=ends, offsets=tuple(offsets), seen=tuple(seen),
    )  # fmt: skip
