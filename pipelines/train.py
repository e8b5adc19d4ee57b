"""Train one model of the catalogue on the fit slice, export it, and store it as a folder the service can load."""

from __future__ import annotations

import copy
import logging
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer

from forecast.errors import ConfigError, TrainingError, nearest
from forecast.jobs import DatasetJob
from forecast.panel import Panel
from forecast.progress import Step
from forecast.runtime import Calibration, Manifest, ServedModel, load, session, store
from forecast.scaling import Scaler
from forecast.settings import cores
from forecast.vocabulary import parse_duration
from models.catalog import CATALOG, BuildRequest, ModelName
from models.errors import ModelError
from models.export import export_onnx
from pipelines.backtest import calibrate
from pipelines.features import future_names, static_names
from pipelines.series import TrainingSeries, fit_scaler, to_darts
from pipelines.slices import Slices
from pipelines.windows import Windows, cut

_GOLDEN_WINDOWS = 3

for _noisy in ("pytorch_lightning", "lightning.pytorch", "darts", "torch.onnx"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)  # advice on hardware and missing extras, once per model


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that was trained, exported, calibrated and stored."""

    folder: str
    """Path under the home's ``models`` folder: data set, then model version."""
    served: ServedModel
    epochs: int
    seconds: float
    losses: Mapping[str, list[float]] = field(default_factory=dict)
    """Per epoch: ``train_loss`` and ``val_loss``; empty for models that have no epochs."""

    @property
    def manifest(self) -> Manifest:
        """The stored manifest."""
        return self.served.manifest


def train(
    name: str,
    job: DatasetJob,
    panel: Panel,
    model_name: str,
    *,
    models: Path,
    data_version: int,
    data_digest: str,
    now: datetime,
    step: Step,
) -> Trained:
    """Train, export, calibrate and store one model.

    Fitted on the fit slice, stopped early on the validation slice, calibrated on the calibration slice; the holdout is
    not touched. Raises ``training.*`` and the models' own codes.
    """
    torch.set_num_threads(cores())
    slices = Slices.of(panel, job)
    scaler = fit_scaler(panel, job, slices.fit)
    watch = _Watch(step, job)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            network = Path(scratch) / "model.onnx"
            with warnings.catch_warnings():
                # Advice of Lightning and of torch's exporter to their own developers, once per model.
                warnings.simplefilter("ignore")
                model = _build(job, model_name, watch)
                _fit(model, panel, scaler, job, slices)
                export_onnx(model, network)
            seconds = time.monotonic() - began
            step.reach(0.96)
            calibration_windows = cut(panel, job, slices.validation, slices.calibration)
            manifest = _manifest(name, job, model_name, panel, slices, scaler, data_version, data_digest, now)
            raw = ServedModel(Manifest(**manifest, network_digest="", golden_digest=""), session(network))
            manifest["calibration"] = calibrate(raw, calibration_windows, parse_duration("1d"))
            golden = _golden(raw, calibration_windows)
            version = f"{model_name}-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"  # a replay's clock may stand still
            folder = f"{name}/{version}"
            store(models / folder, network, golden, manifest | {"model_version": version})
    except ModelError as error:
        raise TrainingError(error.code, f"{model_name}: {error}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(
            "training.out_of_memory",
            f"{model_name} ran out of memory",
            "lower training.batch_size or the model's width",
        ) from error
    return Trained(folder, load(models / folder), watch.epochs, seconds, watch.losses)


def check_models(job: DatasetJob) -> None:
    """Build every model the job file names once, so that a mistake is told before any of them has trained."""
    for model_name in job.models:
        try:
            _build(job, model_name, _Watch(Step(), job))
        except ModelError as error:
            raise ConfigError(error.code, f"{model_name}: {error}") from error


def _build(job: DatasetJob, model_name: str, watch: _Watch) -> Any:
    if model_name not in set(ModelName):
        raise ConfigError("model.unknown", f'no model "{model_name}"', nearest(model_name, ModelName))
    budget = parse_duration(job.training.budget)
    return CATALOG[ModelName(model_name)].build(
        BuildRequest(
            lookback=job.lookback,
            horizon=job.horizon,
            quantiles=job.quantiles,
            season=job.season,
            seed=job.training.seed,
            batch_size=job.training.batch_size,
            max_epochs=job.training.max_epochs,
            options=job.options.get(model_name, {}),
            trainer={
                "accelerator": "auto",
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "gradient_clip_val": 1.0,
                "callbacks": [
                    watch,
                    EarlyStopping("val_loss", patience=job.training.patience, check_finite=True),
                    Timer(duration=budget, interval="step", verbose=False),
                ],
            },
        )
    )


def _fit(model: Any, panel: Panel, scaler: Scaler, job: DatasetJob, slices: Slices) -> None:
    window = job.lookback + job.horizon
    fit = to_darts(panel, scaler, job, 0, slices.fit, window)
    # Early stopping looks at windows whose targets lie in the validation slice; their look-back may reach before it.
    validation = to_darts(panel, scaler, job, slices.fit - job.lookback, slices.validation, window)
    for part, kept in (("fit", fit), ("validation", validation)):
        if not kept.targets:
            raise TrainingError(
                "training.no_window",
                f"the {part} rows have no stretch of {window} steps without a gap",
                "see the gaps in the ingestion's receipt, or raise fill_limit in the job file",
            )
    try:
        _run(model, fit, validation, job)
    except SystemExit as error:  # Lightning's way to end on Ctrl-C or SIGTERM
        raise KeyboardInterrupt from error


def _run(model: Any, fit: TrainingSeries, validation: TrainingSeries, job: DatasetJob) -> None:
    model.fit(
        fit.targets, past_covariates=fit.past, future_covariates=fit.future,
        val_series=validation.targets, val_past_covariates=validation.past, val_future_covariates=validation.future,
        stride=job.training.stride, verbose=False,
    )  # fmt: skip


class _Watch(lightning.Callback):
    """Reports progress, collects losses, and puts the best weights back when training ends."""

    def __init__(self, step: Step, job: DatasetJob) -> None:
        self._step = step
        self._budget = parse_duration(job.training.budget).total_seconds()
        self._max_epochs = job.training.max_epochs
        self._began = time.monotonic()
        self._best: dict[str, torch.Tensor] | None = None
        self._best_loss = float("inf")
        self.epochs = 0
        self.losses: dict[str, list[float]] = {"train_loss": [], "val_loss": []}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        # darts keeps a deep copy of a model's arguments to clone it by; a progress bar can only be shared.
        return self

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        del trainer, pl_module
        self._began = time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        del pl_module, outputs, batch
        in_epoch = (batch_idx + 1) / max(trainer.num_training_batches, 1)
        by_epochs = (self.epochs + in_epoch) / self._max_epochs
        by_time = (time.monotonic() - self._began) / self._budget
        self._step.reach(0.95 * min(max(by_epochs, by_time), 1.0))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.sanity_checking or loss is None:
            return
        value = float(loss)
        self.losses["val_loss"].append(value)
        self._step.note(f"epoch {self.epochs + 1}, validation loss {value:.4f}")
        if value < self._best_loss:
            self._best_loss = value
            self._best = copy.deepcopy(pl_module.state_dict())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        del pl_module
        self.epochs += 1
        loss = trainer.callback_metrics.get("train_loss")
        if loss is not None:
            self.losses["train_loss"].append(float(loss))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        del trainer
        if self._best is not None:
            pl_module.load_state_dict(self._best)
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()] or [torch.zeros(1)])
        if not torch.isfinite(weights).all():
            raise TrainingError(
                "training.diverged", "the loss exploded and left weights that are not finite", "lower the learning rate"
            )


def _manifest(
    name: str,
    job: DatasetJob,
    model_name: str,
    panel: Panel,
    slices: Slices,
    scaler: Scaler,
    data_version: int,
    data_digest: str,
    now: datetime,
) -> dict[str, Any]:
    return {
        "dataset": name,
        "model_name": model_name,
        "model_version": "",
        "trained_at": now,
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
        "calibration": Calibration.none(len(job.targets), len(job.quantiles), job.horizon),
        "data_version": data_version,
        "data_digest": data_digest,
        "fitted_until": panel.time(slices.calibration),
    }


def _golden(model: ServedModel, windows: Windows) -> dict[str, np.ndarray]:
    chosen = np.linspace(0, len(windows.series) - 1, _GOLDEN_WINDOWS).astype(int)
    inputs = (windows.targets[chosen], windows.past[chosen], windows.future[chosen])
    series = [windows.series[i] for i in chosen]
    expected = model.scaled_quantiles(*inputs, series)
    return dict(zip(("targets", "past", "future"), inputs, strict=True)) | {
        "series": np.asarray(series),
        "expected": expected,
    }
