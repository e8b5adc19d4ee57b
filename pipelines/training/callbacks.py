"""Lightning callback of every training: progress, best weights, early stopping, time budget, checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Timer

from forecast.config.training import Training
from forecast.errors import StorageError, TrainingError, first_line
from forecast.progress import Step
from forecast.vocabulary import parse_duration
from kernels import Route, recorded_routes
from pipelines.training.peak_memory import PeakMemory

_KEPT = (
    "settings",
    "best",
    "best_loss",
    "best_epoch",
    "epochs",
    "windows",
    "losses",
    "is_finite",
    "notes",
    "kernels",
    "peak_memory_mb",
)
"""Attributes in a checkpoint, in addition to the elapsed time."""


class TrainingCallback(Timer):
    """Controls one training from its start, or from the checkpoint of a killed one, to its end.

    After each epoch it keeps the weights if their validation loss is the best so far, decides whether to continue (by
    patience, by the time budget, which the base class measures, and while the loss is finite), and saves a checkpoint
    with all state, its own included: on a CPU a resumed training gives bit for bit the same weights as an uninterrupted
    one. Weights are those used for forecasts: the averaged ones where the frame averages weights.
    """

    def __init__(
        self,
        training: Training,
        step: Step,
        *,
        settings: str = "",
        checkpoint: Path | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
        compiled: bool = False,
    ) -> None:
        budget = parse_duration(training.budget)
        super().__init__(duration=budget, verbose=False)
        self._seconds = budget.total_seconds()
        self._training = training
        self._step = step
        self._checkpoint = checkpoint
        self._weights = weights
        self.compiled = compiled
        self.is_finite = True
        """Whether the newest validation loss is finite."""
        self.settings = settings
        """Digest of all inputs of the training."""
        self.best: Mapping[str, torch.Tensor] | None = None
        """The best weights so far; None before the first validation."""
        self.best_loss = math.inf
        self.best_epoch = 0
        self.epochs = 0
        self.losses: dict[str, list[float]] = {"train_loss": [], "val_loss": []}
        self.windows = 0
        self.resumed_after = 0
        self.has_begun = False
        """Whether the training loop has started."""
        self.notes: list[str] = []
        self.kernels: dict[str, str] = {}
        """By op: the implementations that ran, and the reason for each."""
        self.peak_memory_mb = 0.0
        self._measured = ExitStack()
        self._routes: Mapping[str, Sequence[Route]] = {}
        self._memory: PeakMemory | None = None

    @property
    def is_warm(self) -> bool:
        """Whether the training started from given weights."""
        return self._weights is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingCallback:
        # darts deep-copies a model's arguments to clone it. The caller must read the instance that ran.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A strategy that starts processes pickles the callback; the progress bar stays in this process.
        return {**self.__dict__, "_step": Step(), "_measured": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_measured": ExitStack()}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Load the initial weights, and compile the network if requested."""
        super().setup(trainer, pl_module, stage)
        if self._weights is not None:
            self._start_from(self._weights, pl_module)
        if self.compiled:
            pl_module.network.compile()  # in place: names of weights stay the same

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the measurements; stop at once if the resumed training is already over."""
        super().on_train_start(trainer, pl_module)
        self.has_begun = True
        self._routes = self._measured.enter_context(recorded_routes())
        self._memory = PeakMemory()
        trainer.should_stop = trainer.should_stop or self._is_over()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the time budget and report progress."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.windows += len(batch.past_target)
        in_epoch = (batch_idx + 1) / max(trainer.num_training_batches, 1)
        by_epochs = (self.epochs + in_epoch) / self._training.max_epochs
        self._step.reach(min(max(by_epochs, self.time_elapsed() / self._seconds), 1.0))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the weights if they are the best so far."""
        super().on_validation_end(trainer, pl_module)
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.sanity_checking or loss is None:
            return
        value = float(loss)
        self.losses["val_loss"].append(value)
        self.is_finite = math.isfinite(value)
        if value < self.best_loss:
            self.best_loss, self.best_epoch = value, self.epochs + 1
            self.best = dict(copy.deepcopy(pl_module.state_dict()))
        self._step.note(f"epoch {self.epochs + 1}, validation loss {value:.4f}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish an epoch; one cut short by the budget has no mean training loss."""
        super().on_train_epoch_end(trainer, pl_module)
        self.epochs += 1
        loss = trainer.callback_metrics.get("train_loss")
        if loss is not None and trainer.is_last_batch:
            self.losses["train_loss"].append(float(loss))
        self.kernels |= {op: "; ".join(f"{one.path}: {one.reason}" for one in ran) for op, ran in self._routes.items()}
        if self._memory is not None:
            self.peak_memory_mb = max(self.peak_memory_mb, self._memory.megabytes)
        trainer.should_stop = trainer.should_stop or self._is_over()
        if self._checkpoint is not None:
            self._save(trainer, self._checkpoint)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop the measurements."""
        super().teardown(trainer, pl_module, stage)
        self._measured.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop the measurements."""
        super().on_exception(trainer, pl_module, exception)
        self._measured.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return super().state_dict() | {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a killed training."""
        super().load_state_dict(state_dict)
        for name in _KEPT:
            setattr(self, name, state_dict[name])
        self.resumed_after = self.epochs

    def take_over(self, state_dict: dict[str, Any]) -> None:
        """Copy the state of another process of the same training."""
        resumed_after = self.resumed_after
        self.load_state_dict(state_dict)
        self.resumed_after = resumed_after

    def finish(self, module: Any) -> None:
        """Load the best weights; without validation the last ones stay.

        Raises ``training.diverged`` if no weights are finite.
        """
        if self.compiled:
            module.network._compiled_call_impl = None  # noqa: SLF001 - exports need the eager network; torch has no API for it
        if self.best is not None:
            module.load_state_dict(self.best)
            if not self.is_finite:
                self.notes.append(
                    f"the loss exploded in epoch {self.epochs}; the best weights of earlier epochs are used"
                )
        weights_are_finite = all(torch.isfinite(part).all() for part in module.state_dict().values())
        if (self.losses["val_loss"] and self.best is None) or not weights_are_finite:
            raise TrainingError(
                "training.diverged", "the loss exploded and no weights are finite", "lower the learning rate"
            )

    def _is_over(self) -> bool:
        stale = self.epochs - self.best_epoch if self.losses["val_loss"] else 0
        return stale >= self._training.patience or not self.is_finite

    def _start_from(self, weights: Mapping[str, torch.Tensor], module: Any) -> None:
        own = module.state_dict()
        odd = sorted(name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name))
        if odd:
            self.notes.append(f"started from scratch: {len(odd)} weights have another shape, first {odd[0]}")
            self._weights = None
        else:
            module.load_state_dict(weights)

    def _save(self, trainer: Any, checkpoint: Path) -> None:
        part = checkpoint.with_suffix(".part")
        try:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part)  # all processes of a strategy must call it; one writes
            if trainer.is_global_zero:
                part.replace(checkpoint)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise StorageError(
                "training.checkpoint_not_written",
                f'cannot write "{checkpoint}" ({first_line(error)})',
                "free disk space; the training resumes from its last complete epoch",
            ) from error


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
