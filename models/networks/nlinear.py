"""NLinear: one linear map around the last value of a window (arXiv 2205.13504)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from darts.models.forecasting.nlinear import _NLinearModule
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.module import NetworkModule
from models.darts.network import DartsNetwork
from models.darts.recipes import LINEAR_ADAM, Recipe
from models.shape import WindowShape


@dataclass(frozen=True, slots=True)
class NLinearConfig:
    """Options of `NLinear`, named as in darts."""

    normalize: bool = True
    """Subtract the last value of a window and add it to the forecast."""
    const_init: bool = True
    """Start from the mean of the look-back, not from random weights."""

    def check(self, lookback: int, horizon: int) -> None:
        """Accept every config: both options are switches."""


class NLinear(DartsNetwork):
    """One linear map from look-back to horizon around the window's last value (arXiv 2205.13504, section 4)."""

    def build(self, config: NLinearConfig, shape: WindowShape, **arguments: Any) -> PLForecastingModule:
        """Build darts' NLinear."""
        del shape
        return _NLinearModule(
            input_dim=1,
            future_cov_dim=0,
            static_cov_dim=0,
            shared_weights=True,
            normalize=config.normalize,
            const_init=config.const_init,
            **arguments,
        )


class NLinearModule(NetworkModule):
    """`NLinear` inside Lightning."""

    network_class = NLinear
    config_class = NLinearConfig


class NLinearModel(NetworkModel):
    """NLinear as a darts model; options: the fields of `NLinearConfig`.

    It subtracts the last value of a window instead of scaling the window.
    """

    module_class = NLinearModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {"default": Recipe(NLinearConfig(), LINEAR_ADAM, Frame(scale_windows=False))}
    )
