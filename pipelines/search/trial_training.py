"""Train one trial of a search, here or on another machine, and return its outcome."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytorch_lightning as lightning

from forecast.clock import SystemClock
from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, TrainingError, first_line
from forecast.progress import Step
from models.catalog import ModelName
from pipelines.preparation.training_data import TrainingData
from pipelines.search.deadline import Limited, TimeIsOverError
from pipelines.search.trials import TrialAttempt
from pipelines.training.fit import fit

State: TypeAlias = Literal["complete", "pruned", "failed", "cut off"]


@dataclass(frozen=True, slots=True)
class TrialTask:
    """A trial to train, with all its inputs."""

    history: TrainingData
    model: ModelName
    attempt: TrialAttempt
    """Receives the losses by epoch, and decides on pruning."""
    until: datetime
    """End of the search."""
    checkpoints: Path

    @property
    def title(self) -> str:
        """Name of the task in progress reports."""
        return f"trial {self.attempt.number}"

    @property
    def devices(self) -> int:
        """Number of GPUs that the task can use."""
        return self.history.config.training.devices

    @property
    def config(self) -> DatasetConfig:
        """The config with the trial's options."""
        config = self.history.config
        return config.model_copy(update={"options": {**config.options, str(self.model): dict(self.attempt.options)}})

    @property
    def checkpoint(self) -> Path:
        """Checkpoint to resume an interrupted trial; named after its options, so that the next search finds it."""
        encoded = json.dumps(self.attempt.options, sort_keys=True)
        return self.checkpoints / f"{self.model}-{hashlib.sha256(encoded.encode()).hexdigest()[:12]}.ckpt"

    def moved(self, scratch: Path) -> TrialTask:
        """Return the task with its checkpoint in ``scratch``, a folder of another machine."""
        return replace(self, checkpoints=scratch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a trial."""

    state: State
    seconds: float
    reason: str = ""
    """Reason of a pruned or failed trial."""
    best_loss: float | None = None
    best_epoch: int = 0
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By epoch: ``train_loss`` and ``val_loss``."""


def train_trial(task: TrialTask, models: Path, step: Step) -> Outcome:
    """Train a trial on the fit slice until it completes, is pruned, or the search's time is over.

    Raises only errors that the trial did not cause, such as a full disk.
    """
    del models  # nothing is exported
    history, began = task.history, time.monotonic()
    pruning = _PruningCallback(task.attempt)
    limited = Limited(step, began + (task.until - SystemClock().now()).total_seconds())

    def ended(state: State, reason: str = "", losses: Mapping[str, Sequence[float]] | None = None) -> Outcome:
        return Outcome(state, round(time.monotonic() - began, 3), reason, losses=losses or {})

    try:
        limited.reach(0.0)  # the trial may have waited for a machine until now
        fitted = fit(
            task.config, history.panel, history.slices, history.scaler, task.model,
            step=limited, checkpoint=task.checkpoint, callbacks=[pruning],
        )  # fmt: skip
    except TimeIsOverError:
        return ended("cut off", losses={"val_loss": pruning.losses})
    except _PrunedError as pruned:
        step.note(f"pruned {pruned}")
        return ended("pruned", str(pruned), {"val_loss": pruning.losses})
    except (TrainingError, DataError, RuntimeError, ValueError) as error:
        return ended("failed", f"[{getattr(error, 'code', 'training.failed')}] {first_line(error)}")
    return Outcome("complete", fitted.seconds, "", fitted.best_loss, fitted.best_epoch, fitted.losses)


class _PrunedError(Exception):
    """The losses of a trial are worse than the losses of other trials."""


class _PruningCallback(lightning.Callback):
    """Reports losses and ends a poor trial."""

    def __init__(self, attempt: TrialAttempt) -> None:
        self._attempt = attempt
        self.losses: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> _PruningCallback:
        # darts deep-copies a model's arguments. The caller must read the instance that ran.
        return self

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the epoch's loss; raises if the trial should be pruned."""
        del pl_module
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.sanity_checking or loss is None:
            return
        epoch = trainer.current_epoch + 1
        self.losses.append(float(loss))
        self._attempt.report(epoch, float(loss))
        if self._attempt.is_poor:
            raise _PrunedError(f"after epoch {epoch}: worse than half of the others")
