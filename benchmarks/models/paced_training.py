"""The pacer as a Lightning callback, for darts and for rivals that train with Lightning."""

from typing import Any

from pytorch_lightning import Callback

from benchmarks.models.lockstep import Pacer


class PacedTraining(Callback):
    """Counts a step when Lightning has finished a batch, so that loading the next batch belongs to the next step."""

    def __init__(self, steps: int) -> None:
        self._pacer = Pacer(steps)

    def on_train_batch_end(self, *args: Any) -> None:
        """Count the step."""
        del args
        self._pacer.step()
