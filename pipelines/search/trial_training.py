"""Train one trial of a search, here or on another machine, and say what came of it."""

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
    """A trial to be trained; holds everything that is needed for it."""

    history: TrainingData
    model: ModelName
    attempt: TrialAttempt
    """Hears the losses by epoch, and says when they are poor."""
    until: datetime
    """When the search ends."""
    checkpoints: Path

    @property
    def title(self) -> str:
        """What the work is called where its progress is shown."""
        return f"trial {self.attempt.number}"

    @property
    def devices(self) -> int:
        """GPUs that the work can use, where there are some."""
        return self.history.config.training.devices

    @property
    def config(self) -> DatasetConfig:
        """The job with the trial's options."""
        config = self.history.config
        return config.model_copy(update={"options": {**config.options, str(self.model): dict(self.attempt.options)}})

    @property
    def checkpoint(self) -> Path:
        """What a trial that was cut off goes on from: named after its options, so that it is found again."""
        message = json.dumps(self.attempt.options, sort_keys=True)
        return self.checkpoints / f"{self.model}-{hashlib.sha256(message.encode()).hexdigest()[:12]}.ckpt"

    def moved(self, scratch: Path) -> TrialTask:
        """Return the same task for another machine: its checkpoint stays there."""
        return replace(self, checkpoints=scratch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial."""

    state: State
    seconds: float
    reason: str = ""
    """Why it was pruned, or failed."""
    best_loss: float | None = None
    best_epoch: int = 0
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By epoch: ``train_loss`` and ``val_loss``."""


def train_trial(task: TrialTask, models: Path, step: Step) -> Outcome:
    """Train a trial on the fit slice until it is done, pruned, or the search's time is over.

    Raises only what is no fault of the trial's, such as a full disk.
    """
    del models  # nothing is exported
    history, began = task.history, time.monotonic()
    watch = _Watch(task.attempt)
    limited = Limited(step, began + (task.until - SystemClock().now()).total_seconds())

    def ended(state: State, reason: str = "", losses: Mapping[str, Sequence[float]] | None = None) -> Outcome:
        return Outcome(state, round(time.monotonic() - began, 3), reason, losses=losses or {})

    try:
        limited.reach(0.0)  # it may have waited for a machine
        fitted = fit(
            task.config, history.panel, history.slices, history.scaler, task.model,
            step=limited, checkpoint=task.checkpoint, callbacks=[watch],
        )  # fmt: skip
    except TimeIsOverError:
        return ended("cut off", losses={"val_loss": watch.losses})
    except _PrunedError as pruned:
        step.note(f"pruned {pruned}")
        return ended("pruned", str(pruned), {"val_loss": watch.losses})
    except (TrainingError, DataError, RuntimeError, ValueError) as error:
        return ended("failed", f"[{getattr(error, 'code', 'training.failed')}] {first_line(error)}")
    return Outcome("complete", fitted.seconds, "", fitted.best_loss, fitted.best_epoch, fitted.losses)


class _PrunedError(Exception):
    """A trial's losses are worse than those of others."""


class _Watch(lightning.Callback):
    """Ends a trial when its losses are poor."""

    def __init__(self, attempt: TrialAttempt) -> None:
        self._attempt = attempt
        self.losses: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        # darts keeps a deep copy of a model's arguments; the one that is asked must be the one that runs.
        return self

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the epoch's loss, and hear whether to go on."""
        del pl_module
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.sanity_checking or loss is None:
            return
        epoch = trainer.current_epoch + 1
        self.losses.append(float(loss))
        self._attempt.report(epoch, float(loss))
        if self._attempt.is_poor:
            raise _PrunedError(f"after epoch {epoch}: worse than half of the others")
