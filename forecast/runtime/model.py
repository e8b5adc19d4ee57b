"""Exported models: an ONNX file and its manifest, checked by digest and golden example, run without torch."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state
from pydantic import ValidationError

from forecast.durability import flush
from forecast.errors import DataError, NotFoundError, StorageError
from forecast.panel import Array, Panel
from forecast.runtime.calibration import Calibration, scales
from forecast.runtime.files import arrays, content
from forecast.runtime.manifest_checks import faults
from forecast.runtime.precision import ServedIn, Variants
from forecast.runtime.scaler import Scaler
from forecast.strict import StrictModel

MANIFEST = "manifest.json"
NETWORK = "model.onnx"
GOLDEN = "golden.npz"
WEIGHTS = "weights.safetensors"
EVALUATED = "evaluated"
_BATCH = 256
_TOLERANCES = {ServedIn.FLOAT32: 1e-4, ServedIn.INT8: 1e-2}
"""How far a golden example may be off, in deviations. In int8 the last bit of a float, which differs between
processors, can turn a rounding: inputs changed by a millionth of themselves moved an Informer's forecast by 4e-4."""
_MOST_OF_A_MANIFEST = 2**26
_REFUSALS = tuple(
    kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""What ONNX Runtime raises: its kinds of error have no common class but ``Exception``."""


class Manifest(StrictModel):
    """Everything that belongs to a network's numbers, stored beside it; the service reads only this."""

    format: Literal[1] = 1
    dataset: str
    model_name: str
    model_version: str
    trained_at: datetime
    lookback: int
    horizon: int
    step_seconds: float
    targets: tuple[str, ...]
    past: tuple[str, ...]
    future: tuple[str, ...]
    """The calendar's covariates, then those given by the user."""
    statics: tuple[str, ...] = ()
    """Names of the static covariates; their values are the scaler's."""
    quantiles: tuple[float, ...]
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    scaler: Scaler
    calibration: Calibration
    data_version: int
    data_digest: str
    """SHA-256 of the cleaned values the model was trained from."""
    fitted_until: datetime
    """No row from this time on was fitted on."""
    onnx_difference: float = 0.0
    """Largest difference between ONNX Runtime and torch that was seen at the export in float32, in deviations."""
    precision: ServedIn = ServedIn.FLOAT32
    """Of the network in this folder: what serves, and what the golden example is of."""
    variants: Variants | None = None
    """Both precisions beside each other, if int8 was tried; of a refitted network, what was seen of the scored one."""
    refitted: bool = False
    """Whether the network was fitted again on all rows, up to ``fitted_until``, after another one was scored."""
    network_digest: str
    kernels: Mapping[str, str] = {}
    """By op of ``kernels``: the implementation that the training ran, and why that one."""
    golden_digest: str
    weights_digest: str = ""
    """Of the weights that a later training may start from; empty if there are none."""
    evaluated_digest: str = ""
    """Of the manifest of the network that was scored, if this one was fitted again on all rows."""


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

    def knowing(self, panel: Panel) -> ServedModel:
        """Return the same network for series that it never saw, scaled by the moments of their own history."""
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
        """Threads of one run; 0 are as many as ONNX Runtime chooses."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run the bare network on scaled inputs, named as in ``inputs``: [B, H, C, Q], or Q = 1 for a point model."""
        if self.manifest.precision is ServedIn.INT8:  # one scale over a batch: a window would hang on its neighbours
            rows = range(len(next(iter(feeds.values()))))
            parts = [{name: values[row : row + 1] for name, values in feeds.items()} for row in rows]
            return np.concatenate([self._session.run(None, part)[0] for part in parts])
        output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        return output

    def scales(self, targets: Array, series: Sequence[str], steps: int) -> Array:
        """Return how wide bands are in so many steps behind a look-back [B, L, C], up to a factor: [B, steps, C].

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
        each window's series, whose static covariates the manifest knows. ``scale`` [B, H, C] is what :meth:`scales`
        says of the last real look-back, where ``targets`` has forecasts among it.

        Raises ``forecast.unknown_series`` for a series the model never saw, ``forecast.not_finite`` if a window or the
        output is not finite, and ``model.unusable`` if the network does not run, or answers in another shape.
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
            values *= scaling  # noqa: PLW2901 - in place: fresh pages for arrays of megabytes cost more than the sums
            values += moving  # noqa: PLW2901
        for number, (lower, upper) in enumerate(zip(self.manifest.lower, self.manifest.upper, strict=True)):
            if lower is not None or upper is not None:
                mean[..., number] = np.clip(mean[..., number], lower, upper)
                quantiles[..., number, :] = np.clip(quantiles[..., number, :], lower, upper)
        if not (np.isfinite(mean).all() and np.isfinite(quantiles).all()):  # of moments beyond all measure
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
        """Return the network's own output, scaled and uncalibrated: [B, H, C, Q]."""
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
            raise self._unusable(f"answers in the shape {output.shape}")
        return np.broadcast_to(output, whole)

    def _unusable(self, message: str) -> StorageError:
        return StorageError(
            "model.unusable", f"the network of {self.manifest.model_version} {message}", "roll back or retrain"
        )

    def feeds(
        self, targets: Array, past: Array, future: Array, series: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return windows as the bare network takes them: scaled, named as in ``inputs``."""
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
    """Load an exported model; a file that is not what the manifest says, or that answers differently, is refused.

    ``digest`` is what the ledger knows of the manifest itself, see :func:`manifest_digest`; ``threads`` are those of
    :func:`session`. Raises ``model.not_found``, ``model.corrupt``, ``file.unreadable``, ``model.unusable`` and
    ``model.golden_differs``.
    """
    manifest, network, golden = _checked(folder, digest)
    try:
        model = ServedModel(manifest, session(network, threads))
        example = arrays(golden)
        names = [str(name) for name in example["series"]]
        again = model.scaled_quantiles(example["targets"], example["past"], example["future"], names)
        # Without the shape one window would be equal to none of them.
        is_same = again.shape == example["expected"].shape and np.allclose(
            again, example["expected"], atol=_TOLERANCES[manifest.precision]
        )
    except Exception as error:  # what libraries raise is the choice of whoever wrote the files
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


def _checked(folder: Path, digest: str | None) -> tuple[Manifest, bytes, bytes]:
    """Return manifest, network and golden example: the very bytes that were checked, as a file may change later."""
    try:
        message = content(folder / MANIFEST, _MOST_OF_A_MANIFEST)
        manifest = Manifest.model_validate_json(message)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("model.not_found", f'there is no model in "{folder}"', 'run "forecast train"') from error
    except (OSError, ValidationError) as error:
        raise StorageError(
            "model.corrupt", f'the manifest in "{folder}" cannot be read', "roll back or retrain"
        ) from error
    known = ((NETWORK, manifest.network_digest), (GOLDEN, manifest.golden_digest), (MANIFEST, digest))
    files = {MANIFEST: message, NETWORK: _content(folder / NETWORK), GOLDEN: _content(folder / GOLDEN)}
    for name, expected in known:
        if expected is not None and hashlib.sha256(files[name]).hexdigest() != expected:
            raise StorageError(
                "model.corrupt", f'"{folder / name}" is not the file that was exported', "roll back or retrain"
            )
    for fault in faults(manifest):
        raise StorageError("model.corrupt", f'the manifest in "{folder}" has {fault}', "roll back or retrain")
    return manifest, files[NETWORK], files[GOLDEN]


def evaluated_in(folder: Path) -> Path:
    """Return where the network lies that a model was promoted for: inside the folder of one that was refitted."""
    inside = folder / EVALUATED
    return inside if inside.is_dir() else folder


def load_evaluated(folder: Path, digest: str | None = None) -> ServedModel:
    """Load the network that a model was promoted for: the model itself, or the one before it was refitted."""
    model = load(folder, digest)
    return load(folder / EVALUATED, model.manifest.evaluated_digest) if model.manifest.refitted else model


def store(
    folder: Path,
    network: Path,
    golden: Mapping[str, NDArray[Any]],
    manifest: Mapping[str, Any],
    *,
    weights: Path | None = None,
    evaluated: Path | None = None,
) -> Manifest:
    """Write a model folder completely or not at all; ``manifest`` lacks only the digests, which are computed here.

    ``weights`` is what later trainings may start from, ``evaluated`` the folder of the model that was scored.
    """
    half_made = folder.parent / f".half-made-{uuid.uuid4().hex}"
    try:
        half_made.mkdir(parents=True)
        shutil.copyfile(network, half_made / NETWORK)
        np.savez(half_made / GOLDEN, **golden)  # type: ignore[arg-type]  # numpy types its keywords as a flag
        digests = {"network_digest": sha256(half_made / NETWORK), "golden_digest": sha256(half_made / GOLDEN)}
        if weights is not None:
            shutil.copyfile(weights, half_made / WEIGHTS)
            digests["weights_digest"] = sha256(half_made / WEIGHTS)
        if evaluated is not None:
            shutil.copytree(evaluated, half_made / EVALUATED)
            digests["evaluated_digest"] = manifest_digest(half_made / EVALUATED)
        made = Manifest.model_validate({**manifest, **digests})
        (half_made / MANIFEST).write_text(made.model_dump_json(), encoding="utf-8")
        for target in (*half_made.rglob("*"), half_made):
            flush(target)
        if folder.exists():  # never in the way of a model that is there: it may be the champion
            raise StorageError(
                "model.exists", f'there is a model in "{folder}" already', "give the new one another version"
            )
        half_made.rename(folder)
        flush(folder.parent)
    except OSError as error:
        raise StorageError(
            "model.not_stored", f'cannot write the model to "{folder}" ({error.strerror})', "check the disk"
        ) from error
    finally:
        shutil.rmtree(half_made, ignore_errors=True)
    return made


def manifest_digest(folder: Path) -> str:
    """Return the SHA-256 of a model's manifest, which holds the digests of its other files: it stands for the whole."""
    return hashlib.sha256(_content(folder / MANIFEST, _MOST_OF_A_MANIFEST)).hexdigest()


def session(network: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file, or its content, on the CPU; ``threads`` 0 lets ONNX Runtime choose.

    Given as content, weights outside of it cannot be reached.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _content(path: Path, *most: int) -> bytes:
    try:
        return content(path, *most)
    except OSError as error:
        raise StorageError(
            "file.unreadable", f'cannot read "{path}" ({error.strerror})', "check that it exists"
        ) from error


def _not_finite() -> DataError:
    return DataError(
        "forecast.not_finite",
        "a look-back window or its forecast has values that are not finite",
        "see the gaps in the ingestion's receipt",
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            "file.unreadable", f'cannot read "{path}" ({error.strerror})', "check that it exists"
        ) from error
