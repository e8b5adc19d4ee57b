"""Exported models: an ONNX file and its manifest, checked by digest and golden example, run without torch."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import ValidationError

from forecast.durability import flush
from forecast.errors import DataError, NotFoundError, StorageError
from forecast.panel import Array
from forecast.scaling import Scaler
from forecast.strict import Strict

MANIFEST = "manifest.json"
NETWORK = "model.onnx"
GOLDEN = "golden.npz"
_BATCH = 256
_TOLERANCE = 1e-4


class Calibration(Strict):
    """What is added to the network's scaled output so that its quantiles cover what they promise.

    For each group of lead times, channel and level: the level's own quantile of (actual - predicted quantile) on the
    calibration rows, as in conformalised quantile regression (Romano, Patterson, Candes 2019) with one-sided levels. A
    model that tells one value for all levels gets its band from its residuals by the same rule.
    """

    group: int
    """Lead times in one group."""
    quantile_offsets: tuple[tuple[tuple[float, ...], ...], ...]
    """[groups, C, Q]"""
    mean_offsets: tuple[tuple[float, ...], ...]
    """[groups, C]: mean of (actual - predicted median)."""

    @classmethod
    def none(cls, channels: int, levels: int, horizon: int) -> Self:
        """Return offsets of zero: the network's output as it is."""
        return cls(
            group=horizon,
            quantile_offsets=((tuple(0.0 for _ in range(levels)),) * channels,),
            mean_offsets=(tuple(0.0 for _ in range(channels)),),
        )

    def apply(self, quantiles: Array, median: int) -> tuple[Array, Array]:
        """[B, H, C, Q] -> (mean [B, H, C], quantiles [B, H, C, Q], ascending)."""
        groups = np.minimum(np.arange(quantiles.shape[1]) // self.group, len(self.quantile_offsets) - 1)
        mean = quantiles[..., median] + np.asarray(self.mean_offsets)[groups]
        return mean, np.sort(quantiles + np.asarray(self.quantile_offsets)[groups], axis=-1)


class Manifest(Strict):
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
    network_digest: str
    golden_digest: str


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

    @property
    def median(self) -> int:
        """Index of the median among the quantiles."""
        return self.manifest.quantiles.index(0.5)

    def run(self, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run the bare network on scaled inputs, named as in ``inputs``: [B, H, C, Q], or Q = 1 for a point model."""
        output: NDArray[np.float32] = self._session.run(None, dict(feeds))[0]
        return output

    def example(self) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Return inputs of the right names and shapes, all zero, and the network's answer to them."""
        manifest = self.manifest
        sizes = {
            "past_target": (manifest.lookback, len(manifest.targets)),
            "past_covariates": (manifest.lookback, len(manifest.past)),
            "historic_future_covariates": (manifest.lookback, len(manifest.future)),
            "future_covariates": (manifest.horizon, len(manifest.future)),
            "static_covariates": (1, len(manifest.statics)),
        }
        inputs = {name: np.zeros((1, *sizes[name]), np.float32) for name in self.inputs}
        return inputs, self.run(inputs)

    def predict(self, targets: Array, past: Array, future: Array, series: Sequence[str]) -> Prediction:
        """Forecast a batch of windows.

        ``targets`` [B, L, C], ``past`` [B, L, P] and ``future`` [B, L + H, F] in original units, ``series`` the name of
        each window's series, whose static covariates the manifest knows.

        Raises ``forecast.unknown_series`` for a series the model never saw, and ``forecast.not_finite`` if a window or
        the output is not finite.
        """
        for name in series:
            if name not in self.manifest.scaler.targets:
                raise DataError(
                    "forecast.unknown_series",
                    f'model {self.manifest.model_version} was not trained on series "{name}"',
                    "retrain the data set",
                )
        means, deviations = (
            self.manifest.scaler.means(series)[:, None],
            self.manifest.scaler.deviations(series)[:, None],
        )
        scaled = self.scaled_quantiles(targets, past, future, series)
        mean, quantiles = self.manifest.calibration.apply(scaled, self.median)
        mean = mean * deviations + means
        quantiles = quantiles * deviations[..., None] + means[..., None]
        for number, (lower, upper) in enumerate(zip(self.manifest.lower, self.manifest.upper, strict=True)):
            mean[..., number] = np.clip(mean[..., number], lower, upper)
            quantiles[..., number, :] = np.clip(quantiles[..., number, :], lower, upper)
        return Prediction(mean, quantiles)

    def scaled_quantiles(self, targets: Array, past: Array, future: Array, series: Sequence[str]) -> Array:
        """Return the network's own output, scaled and uncalibrated: [B, H, C, Q]."""
        manifest = self.manifest
        scaler = manifest.scaler
        known = scaler.scale_future(future, series)
        arrays = {
            "past_target": scaler.scale_targets(targets, series),
            "past_covariates": scaler.scale_past(past, series),
            "historic_future_covariates": known[:, : manifest.lookback],
            "future_covariates": known[:, manifest.lookback :],
            "static_covariates": np.asarray([[scaler.statics.get(name, ())] for name in series]),
        }
        feeds = {name: arrays[name].astype(np.float32) for name in self.inputs}
        outputs = [
            self.run({name: values[begin : begin + _BATCH] for name, values in feeds.items()})
            for begin in range(0, len(targets), _BATCH)
        ]
        output = np.concatenate(outputs).astype(np.float64)
        if not (all(np.isfinite(values).all() for values in feeds.values()) and np.isfinite(output).all()):
            raise DataError(
                "forecast.not_finite",
                "a look-back window or its forecast has values that are not finite",
                "see the gaps in the ingestion's receipt",
            )
        return np.broadcast_to(output, (*output.shape[:3], len(manifest.quantiles)))


def load(folder: Path, digest: str | None = None) -> ServedModel:
    """Load an exported model; a file that is not what the manifest says, or that answers differently, is refused.

    ``digest`` is what the ledger knows of the manifest itself, see :func:`manifest_digest`.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(content)
    except FileNotFoundError as error:
        raise NotFoundError("model.not_found", f'there is no model in "{folder}"', 'run "forecast train"') from error
    except (OSError, ValidationError) as error:
        raise StorageError(
            "model.corrupt", f'the manifest in "{folder}" cannot be read', "roll back or retrain"
        ) from error
    known = ((NETWORK, manifest.network_digest), (GOLDEN, manifest.golden_digest), (MANIFEST, digest))
    for name, expected in known:
        if expected is not None and sha256(folder / name) != expected:
            raise StorageError(
                "model.corrupt", f'"{folder / name}" is not the file that was exported', "roll back or retrain"
            )
    model = ServedModel(manifest, session(folder / NETWORK))
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        names = [str(name) for name in golden["series"]]
        again = model.scaled_quantiles(golden["targets"], golden["past"], golden["future"], names)
        if not np.allclose(again, golden["expected"], atol=_TOLERANCE):
            raise StorageError(
                "model.golden_differs",
                f'the model in "{folder}" does not reproduce its golden example',
                "roll back or retrain",
            )
    return model


def store(folder: Path, network: Path, golden: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> Manifest:
    """Write a model folder completely or not at all; ``manifest`` lacks only the digests, which are computed here."""
    half_made = folder.parent / f".half-made-{uuid.uuid4().hex}"
    try:
        half_made.mkdir(parents=True)
        shutil.copyfile(network, half_made / NETWORK)
        np.savez(half_made / GOLDEN, **golden)  # type: ignore[arg-type]  # numpy types its keywords as a flag
        made = Manifest.model_validate(
            {**manifest, "network_digest": sha256(half_made / NETWORK), "golden_digest": sha256(half_made / GOLDEN)}
        )
        (half_made / MANIFEST).write_text(made.model_dump_json(), encoding="utf-8")
        for target in (*half_made.iterdir(), half_made):
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
    return sha256(folder / MANIFEST)


def session(network: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU; ``threads`` 0 lets ONNX Runtime choose."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            "file.unreadable", f'cannot read "{path}" ({error.strerror})', "check that it exists"
        ) from error
