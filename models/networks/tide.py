"""TiDE: a dense encoder and decoder over a window and its covariates (arXiv 2304.08424)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.models.forecasting.tide_model import _TideModule

from models.darts.bridge import NetworkModel
from models.darts.module import NetworkModule
from models.darts.network import DartsNetwork
from models.darts.recipes import ADAM, Recipe
from models.option_checks import at_least, shares
from models.shape import WindowShape


@dataclass(frozen=True, slots=True)
class TiDEConfig:
    """Options of `TiDE`; names and defaults are those of darts, except `temporal_hidden_size`."""

    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    decoder_output_dim: int = 16
    """Values per step that the temporal decoder gets from the decoder."""
    hidden_size: int = 128
    """Width of encoder and decoder."""
    temporal_width_past: int = 4
    """Values to which the past covariates of a step are projected; 0 skips the projection."""
    temporal_width_future: int = 4
    """The same for known-future covariates."""
    temporal_hidden_size: int = 32
    """Width of these two projections. With `hidden_size`, as in darts, they would cost more than the rest: they run for
    each step of each channel's window."""
    temporal_decoder_hidden: int = 32
    use_layer_norm: bool = False
    dropout: float = 0.1

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse sizes from which no network can be built.

        Raises:
            OptionOutOfRangeError: a size below 1, a projection below 0 or a dropout outside [0, 1).

        """
        del lookback, horizon
        at_least(0, self, "temporal_width_past", "temporal_width_future")
        at_least(1, self, "num_encoder_layers", "num_decoder_layers", "decoder_output_dim", "hidden_size")
        at_least(1, self, "temporal_hidden_size", "temporal_decoder_hidden")
        shares(self, "dropout")


class TiDE(DartsNetwork):
    """A dense encoder and decoder over a window with its covariates, beside a linear map (arXiv 2304.08424)."""

    reads_covariates = True

    def build(self, config: TiDEConfig, shape: WindowShape, **arguments: Any) -> PLForecastingModule:
        """Build darts' TiDE."""
        return _TideModule(
            input_dim=1 + shape.past + shape.future,
            future_cov_dim=shape.future,
            static_cov_dim=shape.static,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            decoder_output_dim=config.decoder_output_dim,
            hidden_size=config.hidden_size,
            temporal_width_past=config.temporal_width_past,
            temporal_width_future=config.temporal_width_future,
            temporal_hidden_size_past=config.temporal_hidden_size,
            temporal_hidden_size_future=config.temporal_hidden_size,
            temporal_decoder_hidden=config.temporal_decoder_hidden,
            use_layer_norm=config.use_layer_norm,
            dropout=config.dropout,
            **arguments,
        )


class TiDEModule(NetworkModule):
    """`TiDE` inside Lightning."""

    network_class = TiDE
    config_class = TiDEConfig


class TiDEModel(NetworkModel):
    """TiDE as a darts model; options: the fields of `TiDEConfig`. Windows are scaled, an option of the paper."""

    module_class = TiDEModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({"default": Recipe(TiDEConfig(), ADAM)})
