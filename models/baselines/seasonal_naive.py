"""Seasonal naive: repeat the last season. Every trained model should beat it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.baselines.closed_form import ClosedFormModel, TrainingBatches
from models.darts.module import NetworkModule
from models.darts.recipes import Recipe
from models.errors import OptionOutOfRangeError, SeasonTooLongError
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels


@dataclass(frozen=True, slots=True)
class SeasonalNaiveConfig:
    """`season`: steps after which the series repeats itself (24 for daily shape in hourly data); 1 repeats the last."""

    season: int = 1

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse a season longer than the look-back.

        Raises:
            OptionOutOfRangeError: the season is below one step.
            SeasonTooLongError: the season exceeds the look-back.

        """
        del horizon
        if self.season < 1:
            raise OptionOutOfRangeError("season", self.season, "1 or more steps")
        if self.season > lookback:
            raise SeasonTooLongError(self.season, lookback)


class SeasonalNaive(nn.Module):
    """`y[t + h] = y[t + h - k * season]` with the smallest k for which the step is in the look-back.

    Covariates are ignored.

    >>> network = SeasonalNaive(SeasonalNaiveConfig(season=2), WindowShape(lookback=4, horizon=3, targets=1))
    >>> network(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])).flatten()
    tensor([3., 4., 3.])
    """

    def __init__(self, config: SeasonalNaiveConfig, shape: WindowShape) -> None:
        super().__init__()
        steps = torch.arange(shape.gap, shape.gap + shape.horizon)
        source = shape.lookback - config.season + steps % config.season
        self.register_buffer("source", source)  # [H], rows of the look-back

    source: Tensor

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, 1] from `past_target` [B, L, C]."""
        del past_covariates, historic_future, future, static
        return past_target[:, self.source].unsqueeze(-1)  # [B, H, C, 1]

    def solve(self, batches: TrainingBatches) -> None:
        """Do nothing: the network has no weights."""


class SeasonalNaiveModule(NetworkModule):
    """`SeasonalNaive` inside Lightning."""

    network_class = SeasonalNaive
    config_class = SeasonalNaiveConfig


class SeasonalNaiveModel(ClosedFormModel):
    """Seasonal naive as a darts model; options: the fields of `SeasonalNaiveConfig`."""

    module_class = SeasonalNaiveModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({"default": Recipe(SeasonalNaiveConfig(), frame=None)})
