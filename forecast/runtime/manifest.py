"""A model folder: its manifest, the files beside it, and their digests."""

from __future__ import annotations

import hashlib
import math
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from forecast.durability import flush
from forecast.errors import NotFoundError, StorageError
from forecast.runtime.calibration import Calibration
from forecast.runtime.files import content
from forecast.runtime.precision import ServedIn, Variants
from forecast.runtime.scaler import Moments, Scaler
from forecast.strict import StrictModel

MANIFEST = "manifest.json"
NETWORK = "model.onnx"
GOLDEN = "golden.npz"
WEIGHTS = "weights.safetensors"
EVALUATED = "evaluated"
_MOST_OF_A_MANIFEST = 2**26
_MOST_STEPS = 1_000_000


class Manifest(StrictModel):
    """All that the service needs to know about a network, stored next to it."""

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
    """The calendar's covariates, then the user's."""
    statics: tuple[str, ...] = ()
    """Names of the static covariates; their values are the scaler's."""
    quantiles: tuple[float, ...]
    lower: tuple[float | None, ...]
    upper: tuple[float | None, ...]
    scaler: Scaler
    calibration: Calibration
    data_version: int
    data_digest: str
    """SHA-256 of the cleaned training data."""
    fitted_until: datetime
    """End of the rows that the network was fitted on, exclusive."""
    onnx_difference: float = 0.0
    """Largest difference between ONNX Runtime and torch at the export in float32, in deviations."""
    precision: ServedIn = ServedIn.FLOAT32
    """Precision of the network in this folder, which serves and which the golden example belongs to."""
    variants: Variants | None = None
    """Measurements of both precisions, if int8 was tried; for a refitted network, those of the scored one."""
    refitted: bool = False
    """Whether this network was fitted on all rows up to ``fitted_until``, after another one was scored."""
    network_digest: str
    kernels: Mapping[str, str] = {}
    """By op of ``kernels``: the implementation used in training, and the reason for it."""
    golden_digest: str
    weights_digest: str = ""
    """Digest of the weights from which a later training can start; empty if there are none."""
    evaluated_digest: str = ""
    """Digest of the manifest of the scored network, if this one was refitted."""

    def faults(self) -> Iterator[str]:
        """Yield a description of each inconsistency that makes the manifest unusable; nothing if it is sound.

        These are the rules across fields that the types cannot express and the golden example does not reach.
        """
        for fault, is_present in (
            ("a name is empty or unsafe as a file name", not all(map(_is_name, (self.model_name, self.model_version)))),
            ("lookback or horizon is out of range", not all(map(_is_length, (self.lookback, self.horizon)))),
            ("step_seconds is not positive", not (math.isfinite(self.step_seconds) and self.step_seconds > 0)),
            ("targets are empty or repeated", not self.targets or _repeats(self.targets)),
            ("covariates are repeated", _repeats(self.past) or _repeats(self.future)),
            ("quantiles do not ascend around 0.5", not _are_levels(self.quantiles)),
            ("bounds do not match the targets", not _are_bounds(self)),
            ("the scaler does not match the channels, or has a deviation of zero", not _fits_scaler(self)),
            ("the calibration does not match the channels or quantiles", not _fits_calibration(self)),
        ):
            if is_present:
                yield fault


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

    A later training can start from ``weights``. ``evaluated`` is the folder of the scored model.
    Raises ``model.exists`` and ``model.not_stored``.
    """
    partial = folder.parent / f".half-made-{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        shutil.copyfile(network, partial / NETWORK)
        np.savez(partial / GOLDEN, **golden)  # type: ignore[arg-type]  # numpy types its keywords as a flag
        digests = {"network_digest": sha256(partial / NETWORK), "golden_digest": sha256(partial / GOLDEN)}
        if weights is not None:
            shutil.copyfile(weights, partial / WEIGHTS)
            digests["weights_digest"] = sha256(partial / WEIGHTS)
        if evaluated is not None:
            shutil.copytree(evaluated, partial / EVALUATED)
            digests["evaluated_digest"] = manifest_digest(partial / EVALUATED)
        made = Manifest.model_validate({**manifest, **digests})
        (partial / MANIFEST).write_text(made.model_dump_json(), encoding="utf-8")
        for target in (*partial.rglob("*"), partial):
            flush(target)
        if folder.exists():  # never replace a model: it may be the champion
            raise StorageError(
                "model.exists", f'the folder "{folder}" already has a model', "give the new model another version"
            )
        partial.rename(folder)
        flush(folder.parent)
    except OSError as error:
        raise StorageError(
            "model.not_stored", f'cannot write the model to "{folder}" ({error.strerror})', "check the disk"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            "file.unreadable", f'cannot read "{path}" ({error.strerror})', "check that it exists"
        ) from error


def manifest_digest(folder: Path) -> str:
    """Return the SHA-256 of a model's manifest, which stands for the whole model: it has the digests of the files."""
    return hashlib.sha256(_content(folder / MANIFEST, _MOST_OF_A_MANIFEST)).hexdigest()


def read_verified(folder: Path, digest: str | None) -> tuple[Manifest, bytes, bytes]:
    """Return manifest, network and golden example as the bytes that were checked, because a file may change later.

    Raises ``model.not_found``, ``model.corrupt`` and ``file.unreadable``.
    """
    try:
        text = content(folder / MANIFEST, _MOST_OF_A_MANIFEST)
        manifest = Manifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("model.not_found", f'the folder "{folder}" has no model', 'run "forecast train"') from error
    except (OSError, ValidationError) as error:
        raise StorageError(
            "model.corrupt", f'the manifest in "{folder}" cannot be read', "roll back or retrain"
        ) from error
    known = ((NETWORK, manifest.network_digest), (GOLDEN, manifest.golden_digest), (MANIFEST, digest))
    files = {MANIFEST: text, NETWORK: _content(folder / NETWORK), GOLDEN: _content(folder / GOLDEN)}
    for name, expected in known:
        if expected is not None and hashlib.sha256(files[name]).hexdigest() != expected:
            raise StorageError(
                "model.corrupt", f'"{folder / name}" is not the file that was exported', "roll back or retrain"
            )
    for fault in manifest.faults():
        raise StorageError("model.corrupt", f'the manifest in "{folder}" is invalid: {fault}', "roll back or retrain")
    return manifest, files[NETWORK], files[GOLDEN]


def evaluated_in(folder: Path) -> Path:
    """Return the folder of the scored network: inside the model's folder if the model was refitted."""
    inside = folder / EVALUATED
    return inside if inside.is_dir() else folder


def _content(path: Path, *most: int) -> bytes:
    try:
        return content(path, *most)
    except OSError as error:
        raise StorageError(
            "file.unreadable", f'cannot read "{path}" ({error.strerror})', "check that it exists"
        ) from error


def _is_name(text: str) -> bool:
    return text not in {"", ".", ".."} and text.isprintable() and not set(text) & set("/\\")


def _is_length(steps: int) -> bool:
    return 1 <= steps <= _MOST_STEPS


def _repeats(names: tuple[str, ...]) -> bool:
    return len(set(names)) < len(names)


def _are_levels(levels: tuple[float, ...]) -> bool:
    return 0.5 in levels and all(0 < one < 1 for one in levels) and all(one < other for one, other in pairwise(levels))


def _are_bounds(manifest: Manifest) -> bool:
    if not len(manifest.lower) == len(manifest.upper) == len(manifest.targets):
        return False
    return all(
        (-math.inf if lower is None else lower) <= (math.inf if upper is None else upper)  # false for NaN
        for lower, upper in zip(manifest.lower, manifest.upper, strict=True)
    )


def _fits_scaler(manifest: Manifest) -> bool:
    scaler = manifest.scaler
    known = len(next(iter(scaler.future.values()))[0]) if scaler.future else 0
    return (
        bool(scaler.targets)
        and set(scaler.past) == set(scaler.targets)
        and set(scaler.future) in (set(), set(scaler.targets))
        and known <= len(manifest.future)
        and _are_moments(scaler.targets.values(), len(manifest.targets))
        and _are_moments(scaler.past.values(), len(manifest.past))
        and _are_moments(scaler.future.values(), known)
        and all(len(row) == len(manifest.statics) and _are_finite(row) for row in scaler.statics.values())
    )


def _are_moments(every: Iterable[Moments], channels: int) -> bool:
    return all(
        len(means) == len(deviations) == channels and _are_finite(means) and _are_finite(deviations)
        and all(deviation > 0 for deviation in deviations)
        for means, deviations in every
    )  # fmt: skip


def _fits_calibration(manifest: Manifest) -> bool:
    calibration, channels, levels = manifest.calibration, len(manifest.targets), len(manifest.quantiles)
    by_level, by_channel = calibration.quantile_offsets, calibration.mean_offsets
    return (
        calibration.group >= 1
        and calibration.period <= _MOST_STEPS
        and len(by_level) == len(by_channel) >= 1
        and all(len(group) == channels and _are_finite(group) for group in by_channel)
        and all(len(group) == channels for group in by_level)
        and all(len(row) == levels and _are_finite(row) for group in by_level for row in group)
    )


def _are_finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))
