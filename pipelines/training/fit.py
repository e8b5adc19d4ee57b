"""Fit any model of the catalogue: seed, early stopping, best weights, precision and resuming work alike for all."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch._dynamo.exc import TorchDynamoException

from forecast.config.dataset import DatasetConfig
from forecast.config.training import Precision
from forecast.errors import ConfigError, ForecastError, TrainingError, first_line, nearest
from forecast.home import cores
from forecast.panel import Panel
from forecast.progress import Step
from forecast.runtime.scaler import Scaler
from models.catalog import CATALOG, BuildRequest, ModelName
from models.darts.bridge import read_checkpoint
from models.errors import ModelError
from pipelines.preparation.darts_series import TrainingSeries, to_darts
from pipelines.preparation.slices import Slices
from pipelines.training.callbacks import TrainingCallback
from pipelines.training.checkpoints import UNREADABLE, read_weights, usable_checkpoint
from pipelines.training.peak_memory import PeakMemory

_CLIP = 1.0
"""Maximum norm of the gradients of a step."""
SOLVED = frozenset(name for name, spec in CATALOG.items() if spec.family == "baseline")
"""Models without epochs: solved in closed form, not trained."""

for _noisy in ("pytorch_lightning", "lightning.pytorch", "darts", "torch.onnx"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)  # once per model: advice on hardware and missing extras


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model and the record of its fit."""

    model: Any
    """The darts model, with its best weights."""
    best_loss: float | None
    """Lowest loss on the validation slice; ``None`` for a solved model and without validation."""
    best_epoch: int
    """Counted from 1; 0 for a solved model."""
    epochs: int
    """Number of started epochs, including those before a kill; 0 for a solved model."""
    windows: int
    """Number of training windows used in steps; 0 for a solved model."""
    seconds: float
    """Wall time of the training, including the time before a kill."""
    losses: Mapping[str, list[float]] = field(default_factory=dict)
    """``train_loss`` and ``val_loss`` per epoch; an epoch cut short by the budget has no ``train_loss``."""
    peak_memory_mb: float = 0.0
    """Megabytes of the training GPU, else of this process."""
    kernels: Mapping[str, str] = field(default_factory=dict)
    """By op of ``kernels``: the implementation that ran, and the reason."""
    precision: str = "32-true"
    """Lightning's name of the precision."""
    compiled: bool = False
    resumed_after: int = 0
    """Number of epochs in the checkpoint that this training resumed from."""
    start: Literal["scratch", "warm"] = "scratch"
    notes: tuple[str, ...] = ()
    """Deviations from the config (not resumed, not compiled, ...), with reasons."""


def fit(
    config: DatasetConfig,
    panel: Panel,
    slices: Slices,
    scaler: Scaler,
    model_name: str,
    *,
    step: Step | None = None,
    checkpoint: Path | None = None,
    weights: Path | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> Fitted:
    """Fit a model on the fit slice with early stopping by the validation slice, within the config's time budget.

    Without a validation slice (``slices.validation`` equals ``slices.fit``) it trains for all epochs and keeps the last
    weights. After each epoch the state is saved to ``checkpoint``; the next call with the same settings and data
    resumes from it. The caller removes the checkpoint when the result is stored. ``weights`` is a file of
    ``save_weights`` to start from. ``Fitted.notes`` gives the reason if a checkpoint or weights are not usable.

    Raises ``training.no_window``, ``training.diverged``, ``training.out_of_memory``, ``training.failed``,
    ``training.checkpoint_not_written`` and the models' own codes.
    """
    _require_known(model_name)
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as scratch, translated(model_name):
        if checkpoint is None and config.training.devices > 1:
            checkpoint = Path(scratch) / "training.ckpt"  # it brings the state back from the strategy's processes
        plan = _Plan(config, panel, slices, scaler, model_name, step or Step(), checkpoint, weights, tuple(callbacks))
        try:
            return plan.run(compiled=config.training.compile)
        except TorchDynamoException as error:  # no compiler on this machine, or an unsupported network
            return plan.run(compiled=False, notes=(f"not compiled: {first_line(error)}",))


def check_models(config: DatasetConfig) -> None:
    """Build every model of a night once, so that an error in the config is found before any of them trains."""
    for model_name in config.candidates:
        _require_known(model_name)
        try:
            _build(config, model_name, {})
        except ModelError as error:
            raise ConfigError(error.code, f"{model_name}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Plan:
    """One training; ``run`` repeats it without compilation or without resuming if these fail."""

    config: DatasetConfig
    panel: Panel
    slices: Slices
    scaler: Scaler
    model_name: str
    step: Step
    checkpoint: Path | None
    weights: Path | None
    callbacks: tuple[lightning.Callback, ...]

    def run(self, *, compiled: bool, resumed: bool = True, notes: tuple[str, ...] = ()) -> Fitted:
        is_solved = ModelName(self.model_name) in SOLVED
        settings = self._settings() if self.checkpoint is not None else ""
        start, no_start = read_weights(self.weights)
        saved, no_saved = usable_checkpoint(self.checkpoint if resumed else None, settings)
        machine = _machine(self.config, is_solved)
        callback = TrainingCallback(
            self.config.training, self.step,
            settings=settings, checkpoint=self.checkpoint, weights=start, compiled=compiled and not is_solved,
        )  # fmt: skip
        model = _build(self.config, self.model_name, machine | {"callbacks": [*self.callbacks, callback]})
        model.load_ckpt_path = saved  # darts hands it to Lightning at the next fit
        began, memory = time.monotonic(), PeakMemory()
        try:
            self._fit(model)
        except UNREADABLE as error:
            if saved is None or callback.has_begun:
                raise
            note = f"not resumed: {first_line(error)}"  # another version of the network saved the checkpoint
            return self.run(compiled=compiled, resumed=False, notes=(*notes, note))
        if machine["devices"] > 1 and self.checkpoint is not None:
            callback.take_over(read_checkpoint(self.checkpoint)["callbacks"][TrainingCallback.__name__])
        callback.finish(model.model)
        return Fitted(
            model=model,
            best_loss=None if callback.best is None else callback.best_loss,
            best_epoch=callback.best_epoch or callback.epochs,
            epochs=callback.epochs,
            windows=callback.windows,
            seconds=callback.time_elapsed() if callback.epochs else time.monotonic() - began,
            losses=callback.losses if callback.epochs else {},
            peak_memory_mb=callback.peak_memory_mb or memory.megabytes,
            kernels=callback.kernels,
            precision=machine["precision"],
            compiled=callback.compiled,
            resumed_after=callback.resumed_after,
            start="warm" if callback.is_warm and not is_solved else "scratch",
            notes=(*notes, *filter(None, (no_start, no_saved)), *callback.notes),
        )

    def _fit(self, model: Any) -> None:
        fit, validation = self._series("fit", 0, self.slices.fit), None
        if self.slices.validation > self.slices.fit:
            # The targets of validation windows lie in the validation slice; their look-back may begin before it.
            validation = self._series("validation", self.slices.fit - self.config.lookback, self.slices.validation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # once per model: notes of Lightning to its developers
            model.fit(
                fit.targets, past_covariates=fit.past, future_covariates=fit.future,
                val_series=validation and validation.targets, val_past_covariates=validation and validation.past,
                val_future_covariates=validation and validation.future,
                stride=self.config.training.stride, verbose=False,
            )  # fmt: skip

    def _series(self, part: str, first: int, last: int) -> TrainingSeries:
        window = self.config.lookback + self.config.horizon
        series = to_darts(self.panel, self.scaler, self.config, first, last, window)
        if not series.targets:
            empty = _never_observed(self.panel, self.config, first, last)
            raise TrainingError(
                "training.no_window",
                f"the {part} rows have no {window} consecutive steps without a gap"
                + (f": {', '.join(empty)} {'is' if len(empty) == 1 else 'are'} never observed" if empty else ""),
                "see the gaps in the ingestion's receipt, or raise fill_limit in the config file",
            )
        return series

    def _settings(self) -> str:
        """Return a digest of all inputs of the training."""
        inputs = (self.model_name, self.config, self.slices, self.scaler)
        digest = hashlib.sha256(repr((inputs, self.panel.digest)).encode())
        if self.weights is not None and self.weights.exists():
            digest.update(self.weights.read_bytes())
        return digest.hexdigest()


def _require_known(model_name: str) -> None:
    if model_name not in set(ModelName):
        raise ConfigError("model.unknown", f'model "{model_name}" does not exist', nearest(model_name, ModelName))


def _build(config: DatasetConfig, model_name: str, trainer: Mapping[str, Any]) -> Any:
    return CATALOG[ModelName(model_name)].build(
        BuildRequest(
            lookback=config.lookback,
            horizon=config.horizon,
            quantiles=config.quantiles,
            season=config.season,
            seed=config.training.seed,
            batch_size=config.training.batch_size,
            max_epochs=config.training.max_epochs,
            options=config.options.get(model_name, {}),
            trainer=trainer,
        )
    )


def _machine(config: DatasetConfig, is_solved: bool) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer for this machine."""
    gpus = 0 if is_solved else torch.cuda.device_count()
    bf16 = gpus > 0 and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = config.training.precision
    if wanted is Precision.AUTO:
        wanted = Precision.BF16 if bf16 else Precision.FLOAT32
    devices = min(config.training.devices, gpus)
    return {
        "accelerator": "gpu" if gpus else "cpu" if is_solved else "auto",
        "devices": devices or 1,
        "strategy": _strategy(config) if devices > 1 else "auto",
        "precision": "bf16-mixed" if wanted is Precision.BF16 and not is_solved else "32-true",
        "gradient_clip_val": _CLIP,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def _strategy(config: DatasetConfig) -> str:
    # Lightning's default (ddp) would start the whole command again for each GPU, with the night around the training.
    return "ddp_spawn" if config.training.strategy == "auto" else config.training.strategy


def _never_observed(panel: Panel, config: DatasetConfig, first: int, last: int) -> list[str]:
    parts = (
        (config.targets, panel.targets),
        (config.past_covariates, panel.past),
        (config.future_covariates, panel.future),
    )
    unseen = [np.flatnonzero(~np.isfinite(values[:, first:last]).any(axis=(0, 1))) for _, values in parts]
    return [names[place] for (names, _), places in zip(parts, unseen, strict=True) for place in places]


@contextmanager
def translated(model_name: str) -> Iterator[None]:
    """Translate errors of libraries into errors of the service."""
    full = TrainingError(
        "training.out_of_memory",
        f"{model_name} ran out of memory",
        "lower training.batch_size or the model's width",
    )
    try:
        yield
    except ModelError as error:
        raise TrainingError(error.code, f"{model_name}: {error}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise full from error
    except ForecastError:
        raise
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        if "can't allocate memory" in str(error):  # torch has no class of its own for the host's memory
            raise full from error
        raise TrainingError("training.failed", f"{model_name}: {first_line(error)}") from error
    except SystemExit as error:  # Lightning's way to end on Ctrl-C or SIGTERM
        raise KeyboardInterrupt from error
