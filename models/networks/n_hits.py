"""N-HiTS: stacks of dense blocks, each at its own sampling rate (arXiv 2201.12886)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from darts.models.forecasting.nhits import ACTIVATIONS, _NHiTSModule
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from torch import Tensor

from models.darts.bridge import NetworkModel
from models.darts.module import NetworkModule
from models.darts.network import DartsNetwork
from models.darts.recipes import ADAM, Recipe
from models.errors import OptionOutOfRangeError
from models.option_checks import at_least, shares
from models.shape import WindowShape


@dataclass(frozen=True, slots=True)
class NHiTSConfig:
    """Options of `NHiTS`, named as in darts."""

    num_stacks: int = 3
    num_blocks: int = 1
    """Blocks per stack."""
    num_layers: int = 2
    """Dense layers per block."""
    layer_widths: int = 256
    """Width of these layers. The paper and darts take 512: about 1% better on ETTh1 for twice the time."""
    dropout: float = 0.1
    activation: str = "ReLU"

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1, a dropout outside [0, 1) or an unknown activation.

        """
        del lookback, horizon
        at_least(1, self, "num_stacks", "num_blocks", "num_layers", "layer_widths")
        shares(self, "dropout")
        if self.activation not in ACTIVATIONS:
            raise OptionOutOfRangeError("activation", self.activation, f"one of {', '.join(ACTIVATIONS)}")


class NHiTS(DartsNetwork):
    """Stacks that read a window at rising rates and forecast the residual of earlier stacks (arXiv 2201.12886).

    The first stack pools half a look-back into one value and forecasts half horizons; the last reads and forecasts
    every step; the rates between them grow by a constant ratio, as in darts.
    """

    def build(self, config: NHiTSConfig, shape: WindowShape, **arguments: Any) -> PLForecastingModule:
        """Build darts' N-HiTS."""
        return _NHiTSModule(
            input_dim=1,
            num_stacks=config.num_stacks,
            num_blocks=config.num_blocks,
            num_layers=config.num_layers,
            layer_widths=[config.layer_widths] * config.num_stacks,
            pooling_kernel_sizes=_rates(shape.lookback, config),
            n_freq_downsample=_rates(shape.horizon, config),
            batch_norm=False,
            dropout=config.dropout,
            activation=config.activation,
            MaxPool1d=True,
            **arguments,
        )

    def arrange(self, prediction: Tensor) -> Tensor:
        """Return each quantile as a curve over the horizon."""
        # darts 0.48.1 interpolates curves [Q, H] and reads the block as [H, Q], which mixes steps and quantiles.
        return prediction.reshape(-1, self.shape.outputs, self.shape.horizon, 1).permute(0, 2, 3, 1)


def _rates(steps: int, config: NHiTSConfig) -> list[list[int]]:
    """Return the rate of each block of each stack: from half of the steps down to 1."""
    longest = max(steps // 2, 1)
    ratios = np.geomspace(1, longest, config.num_stacks)
    return [[max(int(longest // ratio), 1)] * config.num_blocks for ratio in ratios[:-1]] + [[1] * config.num_blocks]


class NHiTSModule(NetworkModule):
    """`NHiTS` inside Lightning."""

    network_class = NHiTS
    config_class = NHiTSConfig


class NHiTSModel(NetworkModel):
    """N-HiTS as a darts model; options: the fields of `NHiTSConfig`.

    Windows are scaled, unlike in the paper: max-pooling responds to the level of a window before its shape.
    """

    module_class = NHiTSModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({"default": Recipe(NHiTSConfig(), ADAM)})
