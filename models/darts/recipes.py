"""How a network is built and trained: named recipes, and the training arguments that several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch.optim import Adam, AdamW

from models.darts.frame import Frame


class NetworkConfig(Protocol):
    """A frozen dataclass of hyperparameters that a job file can hold: numbers, strings and booleans."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self, lookback: int, horizon: int) -> None:
        """Raise a `ModelError` if no network of this config can be built for such windows."""


@dataclass(frozen=True)
class Recipe:
    """A named way to build and train a network: its config, darts' training arguments, and the frame around it."""

    config: NetworkConfig
    training: Mapping[str, Any] = field(default_factory=dict)
    """darts' arguments where callers give none."""
    frame: Frame | None = field(default_factory=Frame)
    """None for networks that are solved and not trained: they stand alone."""


ENSEMBLE = 3
"""Members of the preset `ensemble`."""


SHORT_TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 32,
        "n_epochs": 10,
        "optimizer_cls": AdamW,
        "optimizer_kwargs": {"lr": 5e-4},
        # A rate that falls from the first epoch on: a nightly budget may end the training at any of them.
        "lr_scheduler_cls": torch.optim.lr_scheduler.ExponentialLR,
        "lr_scheduler_kwargs": {"gamma": 0.8},
    }
)
"""How the `default` presets train: few epochs on few cores."""


def official_training(rate: float, epochs: int) -> Mapping[str, Any]:
    """Train as the official codes of Informer, iTransformer and S-Mamba do.

    Adam on batches of 32, epochs 1 and 2 at the full rate, each later one at half of the rate before.
    """
    return {
        "batch_size": 32,
        "n_epochs": epochs,
        "optimizer_cls": Adam,
        "optimizer_kwargs": {"lr": rate},
        "lr_scheduler_cls": torch.optim.lr_scheduler.MultiStepLR,
        "lr_scheduler_kwargs": {"milestones": list(range(2, epochs)), "gamma": 0.5},
    }


ADAM: Mapping[str, Any] = {
    "batch_size": 64,
    "n_epochs": 10,
    "optimizer_cls": torch.optim.Adam,
    "optimizer_kwargs": {"lr": 1e-3},
}
"""Short trainings on few cores; darts' own 100 epochs are for long ones."""


LINEAR_ADAM: Mapping[str, Any] = {**ADAM, "batch_size": 32, "optimizer_kwargs": {"lr": 3e-4}}
"""For weights that lie around 1 / L: steps of 1e-3 are as large as they are, and cost 4 to 11% in MSE on ETTh1."""
