"""DLinear: the moving average of a window and the remainder, with one linear map each (arXiv 2205.13504)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from darts.models.forecasting.dlinear import _DLinearModule
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule

from models.darts.bridge import NetworkModel
from models.darts.frame import Frame
from models.darts.module import NetworkModule
from models.darts.network import DartsNetwork
from models.darts.recipes import LINEAR_ADAM, Recipe
from models.option_checks import at_least
from models.shape import WindowShape


@dataclass(frozen=True, slots=True)
class DLinearConfig:
    """Options of `DLinear`, named as in darts."""

    kernel_size: int = 25
    """Steps of the moving average that gives the trend."""
    const_init: bool = True
    """Start from the mean of the look-back, not from random weights."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse a moving average of less than one step.

        Raises:
            OptionOutOfRangeError: `kernel_size` is below 1.

        """
        del lookback, horizon
        at_least(1, self, "kernel_size")


class DLinear(DartsNetwork):
    """Trend and remainder, each through one linear map from look-back to horizon (arXiv 2205.13504, section 4)."""

    def build(self, config: DLinearConfig, shape: WindowShape, **arguments: Any) -> PLForecastingModule:
        """Build darts' DLinear."""
        del shape
        return _DLinearModule(
            input_dim=1,
            future_cov_dim=0,
            static_cov_dim=0,
            shared_weights=True,
            kernel_size=config.kernel_size,
            const_init=config.const_init,
            **arguments,
        )


class DLinearModule(NetworkModule):
    """`DLinear` inside Lightning."""

    network_class = DLinear
    config_class = DLinearConfig


class DLinearModel(NetworkModel):
    """DLinear as a darts model; options: the fields of `DLinearConfig`. As in the paper, windows are not scaled."""

    module_class = DLinearModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType(
        {"default": Recipe(DLinearConfig(), LINEAR_ADAM, Frame(scale_windows=False))}
    )
