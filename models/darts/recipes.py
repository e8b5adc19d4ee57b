"""How a network is built and trained: named recipes, and the training arguments that several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch.optim import Adam, AdamW

from models.darts.frame import Frame


class NetworkConfig(Protocol):
    """A frozen dataclass of hyperparameters that a config file can hold: numbers, strings and booleans."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self, lookback: int, horizon: int) -> None:
        """Raise a `ModelError` if no network of this config can be built for such windows."""


@dataclass(frozen=True)
class Recipe:
    """How to build and train a network: its config, darts' training arguments, and the frame around it.

    >>> from models.networks.s_mamba import SMambaConfig
    >>> recipe = Recipe(SMambaConfig(width=32), SHORT_TRAINING, Frame(linear_path=True))
    >>> recipe.training["n_epochs"]
    10
    """

    config: NetworkConfig
    training: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of darts' arguments; callers may override them."""
    frame: Frame | None = field(default_factory=Frame)
    """None for networks that are solved by a formula: they have no frame."""


ENSEMBLE = 3
"""Members of the preset `ensemble`."""


SHORT_TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 32,
        "n_epochs": 10,
        "optimizer_cls": AdamW,
        "optimizer_kwargs": {"lr": 5e-4},
        # The rate falls from the first epoch on, because a time budget may end the training after any epoch.
        "lr_scheduler_cls": torch.optim.lr_scheduler.ExponentialLR,
        "lr_scheduler_kwargs": {"gamma": 0.8},
    }
)
"""Training arguments of the `default` presets: few epochs, for few cores."""


def official_training(rate: float, epochs: int) -> Mapping[str, Any]:
    """Return the training arguments of the official codes of Informer, iTransformer and S-Mamba.

    Adam on batches of 32; the rate halves with every epoch after the second.
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
"""Short trainings on few cores; darts trains 100 epochs by default."""


LINEAR_ADAM: Mapping[str, Any] = {**ADAM, "batch_size": 32, "optimizer_kwargs": {"lr": 3e-4}}
"""For linear maps, whose weights are around 1 / L: a rate of 1e-3 is as large as the weights, and costs 4 to 11% in MSE
on ETTh1."""
