"""Export a fitted model as a folder that the service can load: network, manifest, golden example, weights."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.calibration import Calibration
from forecast.jobs import DatasetJob
from forecast.runtime import Manifest, ServedModel, session, store
from forecast.scaling import Scaler
from forecast.vocabulary import parse_duration
from models.export import export_onnx
from pipelines.calibrate import calibrate
from pipelines.features import future_names, static_names
from pipelines.saved import save_weights
from pipelines.windows import Windows

_GOLDEN_WINDOWS = 3


def export(
    model: Any,
    folder: Path,
    told: Mapping[str, Any],
    windows: Windows,
    *,
    calibration: Calibration | None = None,
    evaluated: Path | None = None,
) -> Manifest:
    """Export a fitted darts model to a folder, completely or not at all.

    ``told`` is the manifest as :func:`about` begins it. The model is calibrated on ``windows``, unless a
    calibration is given, and three of them become its golden example. ``evaluated`` is the folder of the model that was
    scored if this one is its successor. Raises what the export and ``forecast.runtime.store`` raise.
    """
    with tempfile.TemporaryDirectory() as scratch:
        network, weights = Path(scratch) / "model.onnx", Path(scratch) / "weights.safetensors"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice of torch's exporter to its own developers, once per model
            difference = export_onnx(model, network).largest_difference
        save_weights(model, weights)
        bare = Calibration.none(len(told["targets"]), len(told["quantiles"]), told["horizon"])
        manifest = {**told, "onnx_difference": difference, "calibration": bare}
        raw = ServedModel(Manifest(**manifest, network_digest="", golden_digest=""), session(network))
        manifest["calibration"] = calibration or calibrate(raw, windows, parse_duration("1d"))
        return store(folder, network, _golden(raw, windows), manifest, weights=weights, evaluated=evaluated)


def about(job: DatasetJob, scaler: Scaler, **origin: Any) -> dict[str, Any]:
    """Return a manifest but for calibration and digests: what follows from the job, and where the model comes from."""
    return origin | {
        "lookback": job.lookback,
        "horizon": job.horizon,
        "step_seconds": job.step.total_seconds(),
        "targets": job.targets,
        "past": job.past_covariates,
        "future": future_names(job),
        "statics": static_names(job),
        "quantiles": job.quantiles,
        "lower": tuple(job.channels[channel].lower for channel in job.targets),
        "upper": tuple(job.channels[channel].upper for channel in job.targets),
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
