"""A served model: an ONNX network and its manifest, checked by digests and a golden example, run without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state

from forecast.errors import DataError, StorageError
from forecast.panel import Array, Panel
from forecast.runtime.calibration import scales
from forecast.runtime.files import arrays
from forecast.runtime.manifest import EVALUATED, Manifest, read_verified
from forecast.runtime.precision import ServedIn
from forecast.runtime.scaler import Scaler

_BATCH = 256
_TOLERANCES = {ServedIn.FLOAT32: 1e-4, ServedIn.INT8: 1e-2}
"""Tolerance of the golden example, in deviations. In int8 the last bit of a float, which differs between processors,
can flip a rounding: a relative change of the inputs by one millionth moved an Informer's forecast by 4e-4."""
_REFUSALS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Errors of ONNX Runtime, which have no common base class below ``Exception``."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Forecasts of a batch in original units."""

    mean: Array
    """[B, H, C]"""
    quantiles: Array
    """[B, H, C, Q], ascending along Q."""


class ServedModel:
    """A loaded model: windows in original units in, forecasts in original units out."""

    def __init__(self, manifest: Manifest, session: onnxruntime.InferenceSession) -> None:
        self.manifest = manifest
        self._session = session
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in session.get_inputs())

    def fitted_to(self, panel: Panel) -> ServedModel:
        """Return the same network for unknown series, with a scaler fitted on their own history."""
        fitted = Scaler.fit(panel, panel.steps)
        return ServedModel(self.manifest.model_copy(update={"scaler": fitted}), self._session)

    @property
    def median(self) -> int:
        """Index of the median among the quantiles."""
        return self.manifest.quantiles.index(0.5)

    @property
    def provider(self) -> str:
        """The execution provider that runs the network."""
        return str(self._session.get_providers()[0])

    @property
    def threads(self) -> int:
        """Threads of one run; 0 lets ONNX Runtime choose."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run the bare network on scaled inputs, named as in ``inputs``: [B, H, C, Q], or Q = 1 for a point model."""
        if (
            self.manifest.precision is ServedIn.INT8
        ):  # int8 uses one scale per batch: a forecast would depend on the other windows
            rows = range(len(next(iter(feeds.values()))))
            parts = [{name: values[row : row + 1] for name, values in feeds.items()} for row in rows]
            return np.concatenate([self._session.run(None, part)[0] for part in parts])
        output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        return output

    def scales(self, targets: Array, series: Sequence[str], steps: int) -> Array:
        """Return the relative widths of the bands for ``steps`` after a look-back [B, L, C]: [B, steps, C].

        Raises ``forecast.unknown_series``.
        """
        self._require(series)
        lookback = self.manifest.scaler.scale_targets(targets, series)
        return scales(lookback, steps, self.manifest.calibration.period)

    def predict(
        self, targets: Array, past: Array, future: Array, series: Sequence[str], scale: Array | None = None
    ) -> Prediction:
        """Forecast a batch of windows.

        ``targets`` [B, L, C], ``past`` [B, L, P] and ``future`` [B, L + H, F] in original units, ``series`` the name of
        each window's series, whose static covariates the manifest has. ``scale`` [B, H, C] is the result of
        :meth:`scales` for the last real look-back; pass it if ``targets`` has forecasts in it.

        Raises ``forecast.unknown_series`` for a series unknown to the model, ``forecast.not_finite`` if a window or the
        output is not finite, and ``model.unusable`` if the network fails, or returns another shape.
        """
        self._require(series)
        means, deviations = (
            self.manifest.scaler.means(series)[:, None],
            self.manifest.scaler.deviations(series)[:, None],
        )
        scaled = self.scaled_quantiles(targets, past, future, series)
        if scale is None:
            scale = self.scales(targets, series, self.manifest.horizon)
        mean, quantiles = self.manifest.calibration.apply(scaled, self.median, scale)
        for values, scaling, moving in (
            (mean, deviations, means),
            (quantiles, deviations[..., None], means[..., None]),
        ):
            values *= scaling  # noqa: PLW2901 - in place: allocating megabytes costs more than the arithmetic
            values += moving  # noqa: PLW2901
        for number, (lower, upper) in enumerate(zip(self.manifest.lower, self.manifest.upper, strict=True)):
            if lower is not None or upper is not None:
                mean[..., number] = np.clip(mean[..., number], lower, upper)
                quantiles[..., number, :] = np.clip(quantiles[..., number, :], lower, upper)
        if not (np.isfinite(mean).all() and np.isfinite(quantiles).all()):  # huge moments can overflow
            raise _not_finite()
        return Prediction(mean, quantiles)

    def _require(self, series: Sequence[str]) -> None:
        for name in series:
            if name not in self.manifest.scaler.targets:
                raise DataError(
                    "forecast.unknown_series",
                    f'model {self.manifest.model_version} was not trained on series "{name}"',
                    "retrain the data set",
                )

    def scaled_quantiles(self, targets: Array, past: Array, future: Array, series: Sequence[str]) -> Array:
        """Return the network's output, scaled and uncalibrated: [B, H, C, Q]."""
        feeds = self.feeds(targets, past, future, series)
        try:
            outputs = [
                self.run({name: values[begin : begin + _BATCH] for name, values in feeds.items()})
                for begin in range(0, len(targets), _BATCH)
            ]
        except _REFUSALS as error:
            raise self._unusable(f"does not run ({type(error).__name__})") from error
        output = np.concatenate(outputs).astype(np.float64)
        if not (all(np.isfinite(values).all() for values in feeds.values()) and np.isfinite(output).all()):
            raise _not_finite()
        whole = (len(targets), self.manifest.horizon, len(self.manifest.targets), len(self.manifest.quantiles))
        if output.shape not in (whole, (*whole[:3], 1)):
            raise self._unusable(f"returns the shape {output.shape}")
        return np.broadcast_to(output, whole)

    def _unusable(self, message: str) -> StorageError:
        return StorageError(
            "model.unusable", f"the network of {self.manifest.model_version} {message}", "roll back or retrain"
        )

    def feeds(
        self, targets: Array, past: Array, future: Array, series: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return windows as inputs of the network: scaled, and named as in ``inputs``."""
        manifest, scaler = self.manifest, self.manifest.scaler
        known = scaler.scale_future(future, series)
        arrays = {
            "past_target": scaler.scale_targets(targets, series),
            "past_covariates": scaler.scale_past(past, series),
            "historic_future_covariates": known[:, : manifest.lookback],
            "future_covariates": known[:, manifest.lookback :],
            "static_covariates": np.asarray([[scaler.statics.get(name, ())] for name in series]),
        }
        return {name: arrays[name].astype(np.float32) for name in self.inputs}


def load(folder: Path, digest: str | None = None, threads: int = 0) -> ServedModel:
    """Load an exported model, after checking its files by digest and its output by the golden example.

    ``digest`` is the digest of the manifest in the ledger, see :func:`manifest_digest`; ``threads`` as in
    :func:`session`. Raises ``model.not_found``, ``model.corrupt``, ``file.unreadable``, ``model.unusable`` and
    ``model.golden_differs``.
    """
    manifest, network, golden = read_verified(folder, digest)
    try:
        model = ServedModel(manifest, session(network, threads))
        example = arrays(golden)
        names = [str(name) for name in example["series"]]
        again = model.scaled_quantiles(example["targets"], example["past"], example["future"], names)
        # Without the shape check, an output without windows would count as equal.
        is_same = again.shape == example["expected"].shape and np.allclose(
            again, example["expected"], atol=_TOLERANCES[manifest.precision]
        )
    except Exception as error:  # the author of the files chooses which errors libraries raise
        raise StorageError(
            "model.unusable",
            f'the model in "{folder}" does not run its golden example ({getattr(error, "code", type(error).__name__)})',
            "roll back or retrain",
        ) from error
    if not is_same:
        raise StorageError(
            "model.golden_differs",
            f'the model in "{folder}" does not reproduce its golden example',
            "roll back or retrain",
        )
    return model


def load_evaluated(folder: Path, digest: str | None = None) -> ServedModel:
    """Load the network that was scored for a promotion: the model itself, or the one before the refit."""
    model = load(folder, digest)
    return load(folder / EVALUATED, model.manifest.evaluated_digest) if model.manifest.refitted else model


def session(network: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file, or its content, on the CPU; ``threads`` 0 lets ONNX Runtime choose.

    A network given as content cannot read weights from other files.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _not_finite() -> DataError:
    return DataError(
        "forecast.not_finite",
        "a look-back window or its forecast has values that are not finite",
        "see the gaps in the receipt of the ingestion",
    )
