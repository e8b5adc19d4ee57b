"""Linear regression from the look-back to the horizon, solved in closed form: the baseline for every network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.baselines.closed_form import ClosedFormModel, TrainingBatches
from models.darts.module import NetworkModule
from models.darts.recipes import Recipe
from models.errors import OptionOutOfRangeError
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, F known-future covariates, N all training windows


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """Options of the regression.

    Levels are subtracted from each window as RLinear does (arXiv 2305.10721); dividing by the window's deviation as
    well would change only the weights of the windows in the fit.
    """

    ridge: float = 1e-3
    """Penalty per training window on squared weights; the data should have unit scale."""
    level: Literal["mean", "last"] = "mean"
    """The level that is subtracted from a window and added to its forecast: the look-back's mean or its last value."""
    known_future: bool = True
    """Whether the regression first explains the target by known-future covariates, then the rest by the look-back."""

    def check(self, lookback: int, horizon: int) -> None:
        """Refuse invalid values.

        Raises:
            OptionOutOfRangeError: a negative ridge or an unknown level.

        """
        del lookback, horizon
        if not self.ridge >= 0:
            raise OptionOutOfRangeError("ridge", self.ridge, "0 or more")
        if self.level not in {"mean", "last"}:
            raise OptionOutOfRangeError("level", self.level, "'mean' or 'last'")


class Linear(nn.Module):
    """Per target channel: `level + effect(covariates) + W (look-back - its level - its effect) + b`.

    The covariate effect is one linear map shared by all steps (a calendar value means the same at every lead
    time), fitted first; the look-back's matrix W is fitted on the residuals. Past and static covariates are
    ignored.
    """

    def __init__(self, config: LinearConfig, shape: WindowShape) -> None:
        super().__init__()
        self.config = config
        self.future = shape.future if config.known_future else 0
        self.effect = nn.Parameter(torch.zeros(shape.future if config.known_future else 0, shape.targets))  # [F, C]
        self.weight = nn.Parameter(torch.zeros(shape.targets, shape.lookback, shape.horizon))  # [C, L, H]
        self.bias = nn.Parameter(torch.zeros(shape.targets, 1, shape.horizon))  # [C, 1, H]

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None = None,
        historic_future: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast [B, H, C, 1] from `past_target` [B, L, C] and the known-future covariates."""
        del past_covariates, static
        offset = self._level(past_target)  # [B, 1, C]
        past = past_target - offset  # [B, L, C]
        if self.future and historic_future is not None and future is not None:
            reference = self._level(historic_future)  # [B, 1, F]
            past = past - (historic_future - reference) @ self.effect  # [B, L, C]
            offset = offset + (future - reference) @ self.effect  # [B, H, C]
        forecast = past.permute(2, 0, 1) @ self.weight + self.bias  # [C, B, H]
        return (forecast.permute(1, 2, 0) + offset).unsqueeze(-1)  # [B, H, C, 1]

    @torch.no_grad()
    def solve(self, batches: TrainingBatches) -> None:
        """Fit by normal equations, accumulated over the batches in float64.

        Two passes: the covariate effect, then the look-back's weights on the residuals.
        """
        if self.future:
            self.effect.copy_(self._solve_effect(batches))
        effect = self.effect.double()
        channels, lookback, horizon = self.weight.shape
        gram = torch.zeros(channels, lookback, lookback, dtype=torch.float64)
        moment = torch.zeros(channels, lookback, horizon, dtype=torch.float64)
        past_sum = torch.zeros(channels, lookback, 1, dtype=torch.float64)
        target_sum = torch.zeros(channels, 1, horizon, dtype=torch.float64)
        count = 0
        for batch in batches:
            past, target = self._deviations(batch.past_target, batch.future_target)  # [B, L, C], [B, H, C]
            if self.future:
                before, after = self._deviations(batch.historic_future_covariates, batch.future_covariates)
                past, target = past - before @ effect, target - after @ effect
            by_channel, aims = past.permute(2, 0, 1), target.permute(2, 0, 1)  # [C, B, L], [C, B, H]
            gram += by_channel.mT @ by_channel
            moment += by_channel.mT @ aims
            past_sum += by_channel.sum(1, keepdim=True).mT
            target_sum += aims.sum(1, keepdim=True)
            count += len(past)
        # The intercept has no penalty: centre both sides, solve, then compute it.
        gram -= past_sum @ past_sum.mT / count
        moment -= past_sum @ target_sum / count
        weight = _ridge_solution(gram, moment, self.config.ridge * count)  # [C, L, H]
        self.weight.copy_(weight)
        self.bias.copy_((target_sum - past_sum.mT @ weight) / count)

    def _solve_effect(self, batches: TrainingBatches) -> Tensor:
        gram = torch.zeros(self.future, self.future, dtype=torch.float64)
        moment = torch.zeros(self.future, self.effect.shape[1], dtype=torch.float64)
        count = 0
        for batch in batches:
            _, target = self._deviations(batch.past_target, batch.future_target)  # [B, H, C]
            _, known = self._deviations(batch.historic_future_covariates, batch.future_covariates)  # [B, H, F]
            known, target = known.flatten(0, 1), target.flatten(0, 1)  # [B * H, ...]
            gram += known.mT @ known
            moment += known.mT @ target
            count += len(known)
        return _ridge_solution(gram, moment, self.config.ridge * count)

    def _deviations(self, past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the level of the look-back from both parts of a window, in float64."""
        past, future = past.double(), future.double()
        level = self._level(past)
        return past - level, future - level

    @property
    def _level(self) -> Callable[[Tensor], Tensor]:
        return _mean_level if self.config.level == "mean" else _last_level


def _mean_level(past: Tensor) -> Tensor:
    return past.mean(dim=1, keepdim=True)


def _last_level(past: Tensor) -> Tensor:
    return past[:, -1:]


def _ridge_solution(gram: Tensor, moment: Tensor, penalty: float) -> Tensor:
    """Solve `(gram + penalty I) w = moment`; directions without any data get weight zero."""
    values, vectors = torch.linalg.eigh(gram)  # symmetric: the eigenvalues show which directions the data span
    floor = values.amax(-1, keepdim=True).clamp_min(0) * gram.shape[-1] * torch.finfo(gram.dtype).eps
    held = values > floor
    inverse = torch.where(held, 1 / (torch.where(held, values, 1.0) + penalty), 0.0)
    solution: Tensor = vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ moment))
    return solution


class LinearModule(NetworkModule):
    """`Linear` inside Lightning."""

    network_class = Linear
    config_class = LinearConfig


class LinearModel(ClosedFormModel):
    """Closed-form linear regression as a darts model; options: the fields of `LinearConfig`."""

    module_class = LinearModule
    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({"default": Recipe(LinearConfig(), frame=None)})
