"""Export a fitted model as a folder that the service can load: network, manifest, golden example, weights."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.config.dataset import DatasetConfig
from forecast.config.training import Quantize
from forecast.errors import DataError
from forecast.evaluation.metrics import observed_mean, pinball
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import Manifest, store
from forecast.runtime.model import ServedModel, session
from forecast.runtime.precision import ServedIn, Variant, Variants
from forecast.runtime.scaler import Scaler
from forecast.runtime.smoke_test import latencies
from forecast.vocabulary import parse_duration
from models.darts.export import export_onnx
from models.darts.quantization import quantize as to_int8
from pipelines.preparation.features import future_names, static_names
from pipelines.preparation.windows import Windows
from pipelines.training.calibrate import calibrate
from pipelines.training.checkpoints import save_weights

_GOLDEN_WINDOWS = 3


def export(
    model: Any,
    folder: Path,
    fields: Mapping[str, Any],
    windows: Windows,
    *,
    quantize: Quantize = Quantize.NEVER,
    calibration: Calibration | None = None,
    variants: Variants | None = None,
    evaluated: Path | None = None,
) -> Manifest:
    """Export a fitted darts model to a folder, which appears complete or not at all.

    ``fields`` are the manifest's fields from :func:`manifest_fields`. The model is calibrated on ``windows``, unless a
    calibration is given, and three of them become its golden example. With ``quantize`` an int8 network is also
    calibrated on the same windows, and the better precision by :class:`Variants` is stored; ``variants`` is an earlier
    such choice to keep. ``evaluated`` is the folder of the scored model if this one is its refit. Raises the errors of
    the export and of ``forecast.runtime.manifest.store``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        network, coarse, weights = (Path(scratch) / name for name in ("model.onnx", "int8.onnx", "weights.safetensors"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # once per model: notes of torch's exporter to its developers
            difference = export_onnx(model, network).largest_difference
        save_weights(model, weights)
        bare = Calibration.none(len(fields["targets"]), len(fields["quantiles"]), fields["horizon"])
        manifest = {**fields, "onnx_difference": difference, "calibration": calibration or bare, "variants": variants}
        precision = ServedIn.FLOAT32 if variants is None else variants.serves
        is_tried = variants is None and quantize is Quantize.AUTO
        has_int8 = (is_tried or precision is ServedIn.INT8) and to_int8(network, coarse)
        chosen = _Network(coarse if precision is ServedIn.INT8 else network, manifest, precision)
        if calibration is None:
            chosen.calibrate(windows)
        if has_int8 and is_tried:
            chosen = _better(chosen, _Network(coarse, manifest, ServedIn.INT8), windows)
        golden = _golden(chosen.model, windows)
        return store(folder, chosen.network, golden, chosen.manifest, weights=weights, evaluated=evaluated)


class _Network:
    """A network in one precision, with its manifest."""

    def __init__(self, network: Path, manifest: Mapping[str, Any], precision: ServedIn) -> None:
        self.network = network
        self.manifest = {**manifest, "precision": precision}
        self._session = session(network)

    @property
    def model(self) -> ServedModel:
        return ServedModel(Manifest(**self.manifest, network_digest="", golden_digest=""), self._session)

    def calibrate(self, windows: Windows) -> None:
        self.manifest["calibration"] = calibrate(self.model, windows, parse_duration("1d"))

    def measure(self, windows: Windows, latency_ms: float) -> Variant:
        size_mb = round(self.network.stat().st_size / 1e6, 3)
        return Variant(size_mb=size_mb, latency_ms=latency_ms, loss=_loss(self.model, windows))


def _better(exact: _Network, coarse: _Network, windows: Windows) -> _Network:
    """Calibrate the int8 network too, compare both on the same windows, and return the one to serve."""
    try:
        coarse.calibrate(windows)
        times = latencies([exact.model, coarse.model])
        measured = [form.measure(windows, time) for form, time in zip((exact, coarse), times, strict=True)]
    except DataError:  # the int8 network's forecast is not finite
        return exact
    variants = Variants(float32=measured[0], int8=measured[1])
    chosen = coarse if variants.serves is ServedIn.INT8 else exact
    chosen.manifest["variants"] = variants
    return chosen


def _loss(model: ServedModel, windows: Windows) -> float:
    forecast = model.predict(windows.targets, windows.past, windows.future, windows.series)
    deviations = model.manifest.scaler.deviations(windows.series)[:, None]  # [N, 1, C]
    return observed_mean(pinball(windows.actual, forecast.quantiles, model.manifest.quantiles) / deviations)


def manifest_fields(config: DatasetConfig, scaler: Scaler, **origin: Any) -> dict[str, Any]:
    """Return the manifest's fields that follow from the config, plus ``origin``; calibration and digests come later."""
    return origin | {
        "lookback": config.lookback,
        "horizon": config.horizon,
        "step_seconds": config.step.total_seconds(),
        "targets": config.targets,
        "past": config.past_covariates,
        "future": future_names(config),
        "statics": static_names(config),
        "quantiles": config.quantiles,
        "lower": tuple(config.channels[channel].lower for channel in config.targets),
        "upper": tuple(config.channels[channel].upper for channel in config.targets),
        "scaler": scaler,
    }


def _golden(model: ServedModel, windows: Windows) -> dict[str, NDArray[Any]]:
    chosen = np.linspace(0, len(windows.series) - 1, _GOLDEN_WINDOWS).astype(int)
    inputs = (windows.targets[chosen], windows.past[chosen], windows.future[chosen])
    series = [windows.series[i] for i in chosen]
    expected = model.scaled_quantiles(*inputs, series)
    return dict(zip(("targets", "past", "future"), inputs, strict=True)) | {
        "series": np.asarray(series),
        "expected": expected,
    }
