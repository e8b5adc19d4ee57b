"""Train one cell through the public darts interface; a killed training resumes."""

import copy
import hashlib
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from darts.utils.data import TorchTrainingDataset
from torch import Tensor

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.protocol import Dataset, Score, score
from benchmarks.accuracy.recipes import Recipe
from models.catalog import CATALOG, ModelName

for _noisy in ("pytorch_lightning", "lightning.pytorch", "darts"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)  # advice on hardware and missing extras, once per cell

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model with its best weights."""

    model: Any
    """The darts model."""
    validation: Score
    best_epoch: int
    epochs: int
    seconds: float
    checkpoint: Path
    """Checkpoint from which another `fit_cell` resumes; remove it once the result is stored."""

    def score(self, windows: TorchTrainingDataset) -> Score:
        """Score the model on windows."""
        return score(self.model.model, windows)


def fit_cell(cell: Cell, recipe: Recipe, data: Dataset, scratch: Path, say: Say) -> Fitted:
    """Train a cell on all training windows, stopped early on the validation MSE; resumes at its last whole epoch.

    `recipe` is the one for the cell's horizon (`Recipe.of`). The checkpoint in `scratch` is named after the cell and
    its settings, so that a changed preset does not resume the training of the former one.
    """
    validation = data.windows("validation", cell.lookback, cell.horizon, calendar=recipe.calendar)
    name = "-".join(str(part) for part in (cell.dataset, *str(cell).replace("/", " ").split()))
    model_class: Any = CATALOG[ModelName(cell.model)].model_class()
    settings = hashlib.sha256(repr((recipe, model_class.presets().get(cell.preset))).encode()).hexdigest()[:8]
    watch = Watch(cell, recipe.patience, validation, scratch / f"{name}-{settings}.ckpt", say)
    model = build(cell, recipe, watch)
    if watch.checkpoint.exists():
        model.load_ckpt_path = str(watch.checkpoint)  # darts passes it to Lightning at the next fit
    rows = data.rows("train", cell.lookback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and logging
        began = time.monotonic()
        model.fit(
            data.targets[rows],
            future_covariates=data.calendar[rows] if recipe.calendar else None,
            verbose=False,
        )
        seconds = time.monotonic() - began + watch.seconds_before
    if watch.best is not None:
        model.model.load_state_dict(watch.best)
    return Fitted(model, score(model.model, validation), watch.best_epoch, watch.epochs, seconds, watch.checkpoint)


def build(cell: Cell, recipe: Recipe, *callbacks: lightning.Callback) -> Any:
    """Build the unfitted darts model for point forecasts."""
    spec = CATALOG[ModelName(cell.model)]
    preset = {"preset": cell.preset} if spec.family == "network" else {}
    trainer = {
        "accelerator": "auto",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "callbacks": list(callbacks),
    }
    return spec.model_class()(
        input_chunk_length=cell.lookback,
        output_chunk_length=cell.horizon,
        random_state=cell.seed,
        pl_trainer_kwargs=trainer,
        **preset,
        **recipe.arguments,
    )


class Watch(lightning.Callback):
    """After each epoch: score the validation windows, keep the best weights, report, save, and stop in time.

    The scored weights are those that forecast: the averaged ones if a frame averages weights.
    """

    def __init__(self, cell: Cell, patience: int, validation: TorchTrainingDataset, checkpoint: Path, say: Say) -> None:
        self.cell = cell
        self.patience = patience
        self.validation = validation
        self.checkpoint = checkpoint
        self.say = say
        self.best: dict[str, Tensor] | None = None
        self.best_mse = float("inf")
        self.best_epoch = 0
        self.epochs = 0
        self.seconds_before = 0.0
        self._losses: list[float] = []
        self._began = self._epoch_began = time.monotonic()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watch":
        # darts deep-copies a model's arguments; the callback that runs must be the one that is read afterwards.
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a training resumes."""
        return {
            "best": self.best,
            "best_mse": self.best_mse,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "seconds": self.seconds_before + time.monotonic() - self._began,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a killed training."""
        self.best, self.best_mse, self.best_epoch = (state_dict[name] for name in ("best", "best_mse", "best_epoch"))
        self.epochs, self.seconds_before = state_dict["epochs"], state_dict["seconds"]
        self.say(f"{self.cell}: resumed after epoch {self.epochs}")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop at once if the interrupted training had already reached its end."""
        del pl_module
        self._began = self._epoch_began = time.monotonic()
        trainer.should_stop = self._is_over()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Collect the loss."""
        del trainer, pl_module, batch, batch_idx
        self._losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Close an epoch."""
        self.epochs += 1
        found = score(pl_module, self.validation)
        if found.mse < self.best_mse:
            self.best_mse, self.best_epoch = found.mse, self.epochs
            self.best = copy.deepcopy(pl_module.state_dict())
        now = time.monotonic()
        self.say(
            f"{self.cell}: epoch {self.epochs}, train loss {sum(self._losses) / len(self._losses):.4f}, "
            f"validation {found.mse:.4f}/{found.mae:.4f} (best {self.best_mse:.4f} at {self.best_epoch}), "
            f"{now - self._epoch_began:.1f} s"
        )
        self._losses.clear()
        self._epoch_began = now
        trainer.should_stop = self._is_over()
        self._save(trainer)

    def _is_over(self) -> bool:
        return self.epochs - self.best_epoch >= self.patience

    def _save(self, trainer: Any) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        trainer.save_checkpoint(part)
        part.replace(self.checkpoint)
