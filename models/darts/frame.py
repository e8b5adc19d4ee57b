"""The frame around every trained network: window scaling, linear maps, channel dropout, ensembles, averaged weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from models.errors import OptionOutOfRangeError
from models.layers.normalization import scale_window
from models.option_checks import shares
from models.shape import WindowShape

# B batch, L past steps, H horizon, C target channels, Q outputs, M members

LOSSES: Final[Mapping[str, Callable[[], nn.Module]]] = MappingProxyType(
    {"mse": nn.MSELoss, "l1": nn.L1Loss, "huber": nn.HuberLoss}
)
"""Values of `Frame.loss`; a likelihood replaces the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Options of every trained network, whatever its architecture."""

    scale_windows: bool = True
    """Scale each target window by its own mean and deviation, and the forecast back (RevIN without affine part)."""
    decomposition: int = 0
    """Steps (an odd number, at most the look-back is used) of a centred moving average that removes the trend of each
    window. One linear map per output, shared by the channels, extrapolates the trend, and the network forecasts the
    remainder. 0 turns this off."""
    linear_path: bool = False
    """Add a linear map of the whole window per output, shared by the channels, so that the network learns only what
    such a map cannot forecast. Source: the global residual connection of TiDE (arXiv 2304.08424, section 4)."""
    channel_dropout: float = 0.0
    """Share of target channels that are blanked (set to 0, the mean of a scaled window) per training window, so that no
    forecast depends on a single channel."""
    members: int = 1
    """Networks that are trained side by side from different seeds; their forecasts are averaged."""
    averaging: float = 0.0
    """Decay per step of an exponential moving average of the weights, which forecasts, also during validation; early
    steps decay faster. 0 forecasts with the trained weights themselves."""
    loss: str = "mse"
    """Loss of point forecasts: `mse`, `l1` or `huber`. A likelihood replaces it."""

    def check(self) -> None:
        """Refuse values from which no network can be built.

        Raises:
            OptionOutOfRangeError: a share outside [0, 1), no member, an even moving average, an unknown loss.

        """
        shares(self, "channel_dropout", "averaging")
        if self.members < 1:
            raise OptionOutOfRangeError("members", self.members, "1 or more")
        if self.decomposition < 0 or (self.decomposition and self.decomposition % 2 == 0):
            raise OptionOutOfRangeError("decomposition", self.decomposition, "0 or an odd number of steps")
        if self.loss not in LOSSES:
            raise OptionOutOfRangeError("loss", self.loss, f"one of {', '.join(LOSSES)}")


class Decomposed(nn.Module):
    """A network that reads windows without their trend, beside a linear map that extrapolates the trend."""

    def __init__(self, core: nn.Module, steps: int, shape: WindowShape) -> None:
        super().__init__()
        self.core = core
        self.steps = min(steps, shape.lookback - 1 + shape.lookback % 2)  # odd: an even average lies between two steps
        self.shape = shape
        self.trend = nn.Linear(shape.lookback, shape.horizon * shape.outputs)
        # Starts as the last value of the trend, which training improves.
        nn.init.zeros_(self.trend.bias)
        nn.init.zeros_(self.trend.weight)
        with torch.no_grad():
            self.trend.weight[:, -1] = 1

    def forward(self, past_target: Tensor, *covariates: Tensor | None) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C]; every output of the core gets the trend."""
        values, trend = self.split(past_target)
        remainder: Tensor = self.core(values, *covariates)  # [B, H, C, Q]
        return remainder + spread(self.trend(trend), self.shape, remainder.shape[3])

    def split(self, past_target: Tensor) -> tuple[Tensor, Tensor]:
        """Split [B, L, C] into the remainder for the core, [B, L, C], and the trend, [B, C, L]."""
        by_channel = past_target.transpose(1, 2)  # [B, C, L]
        margin = self.steps // 2
        padded = functional.pad(by_channel, (margin, margin), mode="replicate")
        trend = functional.avg_pool1d(padded, self.steps, stride=1)  # [B, C, L]
        return (by_channel - trend).transpose(1, 2), trend


class LinearPath(nn.Module):
    """A network beside a linear map of the same window."""

    def __init__(self, core: nn.Module, shape: WindowShape) -> None:
        super().__init__()
        self.core = core
        self.shape = shape
        self.linear = nn.Linear(shape.lookback, shape.horizon * shape.outputs)
        # Starts at zero: training would first have to unlearn a random map.
        nn.init.zeros_(self.linear.bias)
        nn.init.zeros_(self.linear.weight)

    def forward(self, past_target: Tensor, *covariates: Tensor | None) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C]; every output of the core gets the map's."""
        forecast: Tensor = self.core(past_target, *covariates)  # [B, H, C, Q]
        return forecast + spread(self.linear(past_target.transpose(1, 2)), self.shape, forecast.shape[3])


def spread(mapped: Tensor, shape: WindowShape, outputs: int) -> Tensor:
    """Reshape the output of a linear map per channel, [B, C, H * Q], to a forecast, [B, H, C, outputs]."""
    forecast = torch.unflatten(mapped, -1, (shape.horizon, shape.outputs)).transpose(1, 2)  # [B, H, C, Q]
    return forecast.repeat(1, 1, 1, outputs // shape.outputs)


class FramedNetwork(nn.Module):
    """One or several networks of one kind inside a `Frame`, called like a single network (see `WindowShape`).

    In training a batch holds M parts, one per member (`NetworkModule` repeats its batch M times). In evaluation each
    member gets the whole batch, and the forecast is their mean.
    """

    def __init__(self, build: Callable[[], nn.Module], frame: Frame, shape: WindowShape) -> None:
        super().__init__()
        self.frame = frame
        self.members = nn.ModuleList(_with_maps(build(), frame, shape) for _ in range(frame.members))

    @property
    def cores(self) -> list[nn.Module]:
        """The networks themselves, without linear maps."""
        return [_core(member) for member in self.members]

    def core_inputs(self, past_target: Tensor) -> list[Tensor]:
        """Return the input of each network for a scaled window, [B, L, C]."""
        return [_core_input(member, past_target) for member in self.members]

    def forward(self, past_target: Tensor, *covariates: Tensor | None) -> Tensor:
        """Forecast [B, H, C, Q] from `past_target` [B, L, C] and covariates."""
        scaled = scale_window(past_target) if self.frame.scale_windows else None
        values = self._drop_channels(scaled.values if scaled else past_target)  # [B, L, C]
        forecast = self._forecast(values, *covariates)  # [B, H, C, Q]
        return scaled.restore(forecast) if scaled else forecast

    def _drop_channels(self, values: Tensor) -> Tensor:
        if not self.training or not self.frame.channel_dropout:
            return values
        chances = torch.rand(len(values), 1, values.shape[2], device=values.device, dtype=values.dtype)
        return values * (chances >= self.frame.channel_dropout)  # not scaled up: the kept channels keep their values

    def _forecast(self, *inputs: Tensor | None) -> Tensor:
        count = len(self.members)
        if count == 1:
            only: Tensor = self.members[0](*inputs)
            return only
        if not self.training:
            return torch.stack([member(*inputs) for member in self.members]).mean(0)
        parts = [[None] * count if tensor is None else tensor.chunk(count) for tensor in inputs]
        return torch.cat([member(*part) for member, part in zip(self.members, zip(*parts, strict=True), strict=True)])


def _with_maps(core: nn.Module, frame: Frame, shape: WindowShape) -> nn.Module:
    member = Decomposed(core, frame.decomposition, shape) if frame.decomposition else core
    return LinearPath(member, shape) if frame.linear_path else member


def _core(member: nn.Module) -> nn.Module:
    return _core(member.core) if isinstance(member, Decomposed | LinearPath) else member


def _core_input(member: nn.Module, past_target: Tensor) -> Tensor:
    if isinstance(member, LinearPath):
        return _core_input(member.core, past_target)
    return member.split(past_target)[0] if isinstance(member, Decomposed) else past_target


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Copy a network; the weights and buffers of the copy average those of the trained network.

    The decay of step n is min(decay, (1 + n) / (10 + n)). With a constant decay, short trainings would keep their
    initial weights.
    """

    @torch.no_grad()
    def follow(mean: Any, current: Any, steps: Any) -> None:  # tensors of one dtype
        n = int(steps)
        if mean[0].is_floating_point():
            torch._foreach_lerp_(mean, current, 1 - min(decay, (1 + n) / (10 + n)))  # one call for all
        else:
            torch._foreach_copy_(mean, current)  # counters

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True).requires_grad_(False)
