"""Base class of darts' own networks inside this package's bridge: DLinear, NLinear, N-HiTS, TiDE."""

from typing import Any, ClassVar

from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import PLModuleInput
from torch import Tensor, nn

from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, P past and F known-future covariates, S constants, Q outputs


class DartsNetwork(nn.Module):
    """A network of darts that forecasts each target channel separately, with the same weights for all.

    darts itself puts channels and covariates side by side in one wide window. The papers ran these networks channel by
    channel, and this avoids faults of the wide form in darts 0.48.1 with several channels or quantiles: N-HiTS pools
    values of different channels, TiDE's skip connection adds one channel's level to another, and NLinear refuses to
    normalise. Subclasses build the network, in `core`, for one channel.
    """

    reads_covariates: ClassVar[bool] = False
    """False: the network ignores covariates, because the service gives the same inputs to every model."""

    def __init__(self, config: Any, shape: WindowShape) -> None:
        super().__init__()
        self.shape = shape
        self.core = self.build(
            config,
            shape,
            input_chunk_length=shape.lookback,
            output_chunk_length=shape.horizon,
            nr_params=shape.outputs,
            output_dim=1,
            loss_fn=nn.MSELoss(),  # unused; darts' default is one object, with one train/eval state, for all models
        )

    def build(self, config: Any, shape: WindowShape, **arguments: Any) -> PLForecastingModule:
        """Build darts' network for one channel."""
        raise NotImplementedError

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates (see `WindowShape`)."""
        single = past_target.transpose(1, 2).reshape(-1, self.shape.lookback, 1)  # [B * C, L, 1]
        covariates: dict[str, Tensor | None] = {}
        if self.reads_covariates:
            covariates = {
                "past_covariates": self._for_each_channel(past_covariates),  # [B * C, L, P]
                "historic_future_covariates": self._for_each_channel(historic_future),  # [B * C, L, F]
                "future_covariates": self._for_each_channel(future),  # [B * C, H, F]
                "static_covariates": self._constants(static),  # [B * C, 1, S]
            }
        forecast = self.arrange(self.core(PLModuleInput(past_target=single, **covariates)).prediction)
        by_channel = forecast.reshape(-1, self.shape.targets, self.shape.horizon, self.shape.outputs)
        return by_channel.transpose(1, 2)  # [B, H, C, Q]

    def arrange(self, prediction: Tensor) -> Tensor:
        """Reorder darts' prediction for single channels to [B * C, H, 1, Q] where its layout differs."""
        return prediction

    def _for_each_channel(self, covariates: Tensor | None) -> Tensor | None:
        if covariates is None:
            return None
        return covariates.unsqueeze(1).expand(-1, self.shape.targets, -1, -1).flatten(0, 1)

    def _constants(self, static: Tensor | None) -> Tensor | None:
        """Return the constants of each channel: its own, or those that all channels share."""
        if static is None:
            return None
        return static.expand(-1, self.shape.targets, -1).flatten(0, 1).unsqueeze(1)
