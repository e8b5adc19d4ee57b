"""Smoke test of an exported model before it may serve: latency, size, and finite forecasts on pathological inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecast.errors import DataError
from forecast.panel import Array
from forecast.runtime.precision import ServedIn, Variants
from forecast.strict import StrictModel

if TYPE_CHECKING:
    from forecast.runtime.model import ServedModel

_REPETITIONS = 15


class SmokeTest(StrictModel):
    """Result of a smoke test."""

    latency_ms: float
    """Median wall time of one forecast of one series on one core, over 15 runs."""
    size_mb: float
    """Size of the network's file."""
    not_finite_on: tuple[str, ...]
    """Names of the stress inputs for which the forecast was not finite."""
    onnx_difference: float
    """Largest difference between ONNX Runtime and torch at the export, in deviations."""
    precision: ServedIn = ServedIn.FLOAT32
    variants: Variants | None = None
    """Measurements of both precisions, if int8 was tried."""


def smoke_test(model: ServedModel, network: Path) -> SmokeTest:
    """Measure a model's latency, and run it on pathological inputs (zeros, spikes, ramps); ``network`` is its file."""
    series = next(iter(model.manifest.scaler.targets))
    failed = []
    for name, targets, past, future in _stress_inputs(model, series):
        try:
            model.predict(targets, past, future, [series])  # raises if the forecast is not finite
        except DataError:
            failed.append(name)
    (latency_ms,) = latencies([model])
    return SmokeTest(
        latency_ms=latency_ms,
        size_mb=round(network.stat().st_size / 1e6, 3),
        not_finite_on=tuple(failed),
        onnx_difference=model.manifest.onnx_difference,
        precision=model.manifest.precision,
        variants=model.manifest.variants,
    )


def latencies(models: Sequence[ServedModel]) -> list[float]:
    """Return the median milliseconds of one forecast of one series for each model; the models run alternately."""
    series = next(iter(models[0].manifest.scaler.targets))
    inputs = next(_stress_inputs(models[0], series))[1:]
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(_REPETITIONS):
        for model, taken in zip(models, seconds, strict=True):
            began = time.perf_counter()
            model.predict(*inputs, [series])
            taken.append(time.perf_counter() - began)
    return [round(1000 * float(np.median(taken)), 3) for taken in seconds]


def _stress_inputs(model: ServedModel, series: str) -> Iterator[tuple[str, Array, Array, Array]]:
    """Yield a name, then targets [1, L, C], past [1, L, P] and future [1, L + H, F] in original units."""
    manifest, scaler = model.manifest, model.manifest.scaler
    lookback, steps = manifest.lookback, manifest.lookback + manifest.horizon
    means, deviations = scaler.means([series])[:, None], scaler.deviations([series])[:, None]  # [1, 1, C]
    past_means, past_deviations = (np.asarray(part)[None, None] for part in scaler.past[series])
    future = np.zeros((1, steps, len(manifest.future)))
    random = np.random.default_rng(0)
    shapes = {
        "the mean throughout": np.zeros(lookback),
        "noise": random.normal(size=lookback),
        "zeros behind a jump": np.where(np.arange(lookback) < lookback // 2, -1e3, 1e3),
        "one spike of a million deviations": np.where(np.arange(lookback) == lookback - 1, 1e6, 0.0),
        "a steep ramp": np.linspace(-1e4, 1e4, lookback),
        "differences near zero": 1e-9 * random.normal(size=lookback),
    }
    for name, shape in shapes.items():
        wave = shape[None, :, None]
        yield name, means + deviations * wave, past_means + past_deviations * wave, future
    yield "zeros throughout", np.zeros((1, lookback, means.shape[2])), np.tile(past_means, (1, lookback, 1)), future
