"""Candidates for promotion: train, export, calibrate, smoke-test and score one model per task.

A task holds all its inputs, so that it can be sent to another machine.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.scores import Evidence, Yardstick
from forecast.panel import Panel
from forecast.progress import Step
from forecast.runtime.manifest import NETWORK, WEIGHTS, Manifest, evaluated_in, sha256
from forecast.runtime.model import load, load_evaluated
from forecast.runtime.scaler import Scaler
from forecast.runtime.smoke_test import smoke_test
from forecast.tracking.entities import DARTS
from forecast.tracking.runs import save_darts
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices
from pipelines.preparation.windows import cut
from pipelines.training.backtest import evidence_of
from pipelines.training.export import export, manifest_fields
from pipelines.training.fit import SOLVED, Fitted, fit, translated


@dataclass(frozen=True, slots=True)
class Start:
    """Weights of an earlier model for a warm start."""

    model_version: str
    weights: bytes
    """A safetensors file."""
    fitted_until: datetime
    """End of its training rows (exclusive)."""


def start_from(folder: Path) -> Start | None:
    """Return the weights of a model's folder for a warm start, or ``None`` if it has none.

    For a refitted model these are the weights before the refit: the refitted ones have seen rows on which the next
    night compares models. Raises ``model.corrupt``.
    """
    manifest = load_evaluated(folder).manifest
    holder = evaluated_in(folder)
    if not manifest.weights_digest or sha256(holder / WEIGHTS) != manifest.weights_digest:
        return None
    return Start(manifest.model_version, (holder / WEIGHTS).read_bytes(), manifest.fitted_until)


@dataclass(frozen=True, slots=True)
class Task:
    """One model to train and score."""

    dataset: str
    config: DatasetConfig
    panel: Panel
    slices: Slices
    model_name: str
    data_version: int
    data_digest: str
    now: datetime
    holdout: tuple[int, int]
    """First target row of the held-out windows, and the row after the last one."""
    yardstick: Yardstick
    champion: Start | None
    """Weights of the champion if it is the same kind of model: :func:`start_from`."""
    checkpoints: Path
    """Folder of checkpoints to resume from; removed at the end of the night."""

    @property
    def title(self) -> str:
        """Name of the task in progress reports."""
        return self.model_name

    @property
    def devices(self) -> int:
        """Number of GPUs that the training can use."""
        return 0 if self.model_name in SOLVED else self.config.training.devices

    def moved(self, scratch: Path) -> Task:
        """Return the task with its checkpoints in ``scratch``, a folder of another machine."""
        return replace(self, checkpoints=scratch)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained and scored model."""

    folder: str
    """Path under the home's ``models`` folder: data set, then model version."""
    manifest: Manifest
    evidence: Evidence
    fitted: Fitted
    """Record of the fit, without the model itself."""
    race: Mapping[str, float]
    """Lowest validation loss by start (``scratch``, ``warm``) if both were tried; the lower one is used."""


def train_candidate(task: Task, models: Path, step: Step) -> Candidate:
    """Train, export, calibrate, store, smoke-test and score one model.

    It is fitted on the fit slice, stopped early by the validation slice and calibrated on the calibration slice; rows
    of the holdout are read only after the model is stored. Raises ``training.*`` and the models' own codes.
    """
    scaler = fit_scaler(task.panel, task.config, task.slices.fit)
    with translated(task.model_name):
        fitted, race = _race(task, scaler, step.part(0.0, 0.9))
        # The random suffix keeps versions distinct: a replay's clock may stand still.
        version = f"{task.model_name}-{task.now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        folder = f"{task.dataset}/{version}"
        windows = cut(task.panel, task.config, task.slices.validation, task.slices.calibration)
        fields = _fields(task, scaler, version, task.slices.calibration) | {"kernels": fitted.kernels}
        export(fitted.model, models / folder, fields, windows, quantize=task.config.training.quantize)
        save_darts(fitted.model, models / folder / DARTS)
        step.reach(0.95)
        served = load(models / folder)
        tested = smoke_test(served, models / folder / NETWORK)
        holdout = cut(task.panel, task.config, *task.holdout)
        evidence = evidence_of(served, holdout, task.yardstick, task.config, tested)
    step.note(f"pinball {evidence.pinball:.4f}")
    return Candidate(folder, served.manifest, evidence, replace(fitted, model=None), race)


def refit(candidate: Candidate, task: Task, models: Path, step: Step) -> str:
    """Fit a scored model again on all rows, for the best number of epochs, and return its folder.

    The folder also contains the scored model, with which the next night compares: the refitted one has seen the holdout
    rows. Calibration and precision are those of the scored model, as no row is left to choose them on.
    """
    version = f"{candidate.manifest.model_version}-refitted"
    last = task.slices.holdout
    everything = Slices(last, last, last, last)
    scaler = fit_scaler(task.panel, task.config, last)
    epochs = max(candidate.fitted.best_epoch, 1)
    training = task.config.training.model_copy(update={"max_epochs": epochs})
    config = task.config.model_copy(update={"training": training})
    scored = models / candidate.folder
    folder = f"{task.dataset}/{version}"
    with tempfile.TemporaryDirectory() as scratch, translated(task.model_name):
        weights = None
        if task.champion is not None and candidate.fitted.start == "warm":
            weights = _write_weights(task.champion, Path(scratch))
        checkpoint = task.checkpoints / f"{task.dataset}-{task.model_name}-refit.ckpt"
        fitted = fit(
            config, task.panel, everything, scaler, task.model_name,
            step=step.part(0.0, 0.95), checkpoint=checkpoint, weights=weights,
        )  # fmt: skip
        fields = _fields(task, scaler, version, last) | {"refitted": True, "kernels": fitted.kernels}
        windows = cut(task.panel, task.config, task.slices.validation, task.slices.calibration)
        kept = candidate.manifest
        export(
            fitted.model, models / folder, fields, windows,
            calibration=kept.calibration, variants=kept.variants, evaluated=scored,
        )  # fmt: skip
        save_darts(fitted.model, models / folder / DARTS)
    return folder


def _race(task: Task, scaler: Scaler, step: Step) -> tuple[Fitted, Mapping[str, float]]:
    """Train from scratch and, if the champion has weights, also from these; return the fit with the lower loss."""

    def run(start: str, part: Step, weights: Path | None = None) -> Fitted:
        checkpoint = task.checkpoints / f"{task.dataset}-{task.model_name}-{start}.ckpt"
        return fit(
            task.config, task.panel, task.slices, scaler, task.model_name,
            step=part, checkpoint=checkpoint, weights=weights,
        )  # fmt: skip

    champion = task.champion
    if champion is None or not task.config.training.warm_start or task.model_name in SOLVED:
        return run("scratch", step), {}
    if champion.fitted_until > task.panel.time(task.slices.calibration):
        why_not = f"not started from {champion.model_version}: it has seen rows outside this night's fit slice"
        fitted = run("scratch", step)
        return replace(fitted, notes=(*fitted.notes, why_not)), {}
    with tempfile.TemporaryDirectory() as scratch:
        warm = run("warm", step.part(0.0, 0.5), _write_weights(champion, Path(scratch)))
    if warm.start == "scratch":  # the weights have other shapes: both starts are the same
        return warm, {}
    cold = run("scratch", step.part(0.5, 1.0))
    tried = {"scratch": cold, "warm": warm}
    race = {start: fitted.best_loss for start, fitted in tried.items() if fitted.best_loss is not None}
    return tried[min(race, key=lambda start: race[start], default="scratch")], race


def _write_weights(start: Start, scratch: Path) -> Path:
    file = scratch / f"{start.model_version}.safetensors"
    file.write_bytes(start.weights)
    return file


def _fields(task: Task, scaler: Scaler, version: str, fitted_until: int) -> dict[str, Any]:
    return manifest_fields(
        task.config, scaler, dataset=task.dataset, model_name=task.model_name, model_version=version,
        trained_at=task.now, data_version=task.data_version, data_digest=task.data_digest,
        fitted_until=task.panel.time(fitted_until),
    )  # fmt: skip
