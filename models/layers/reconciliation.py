"""Heads that revise a forecast by its own coarser forecast, or by the forecasts of other channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.feed_forward import GatedAttention

# B batch, H horizon, C channels, Q outputs, S segments of the horizon


class HierarchyReconciliation(nn.Module):
    """Revise each segment of a forecast by a forecast of the segment's mean (arXiv 2306.09364).

    The horizon is cut into S segments of `length` steps; the last one may be shorter. One linear map, shared by
    channels and outputs, forecasts the means of all segments from the whole fine forecast; another one reads a segment
    and its mean and returns the revision of the segment. An untrained head changes nothing: the first map averages, the
    second one returns zero.
    """

    def __init__(self, horizon: int, length: int) -> None:
        super().__init__()
        self.length = min(length, horizon)
        segment = torch.arange(horizon) // self.length  # [H]
        inside = (segment == torch.arange(int(segment[-1]) + 1)[:, None]).float()  # [S, H]
        self.register_buffer("weights", inside / inside.sum(1, keepdim=True), persistent=False)
        self.register_buffer("segment", segment, persistent=False)
        self.forecast_means = nn.Linear(*inside.shape[::-1])
        self.revise = nn.Linear(self.length + 1, self.length)
        with torch.no_grad():
            self.forecast_means.weight.copy_(self.weights)
            for parameter in (self.forecast_means.bias, *self.revise.parameters()):
                parameter.zero_()

    weights: Tensor
    segment: Tensor

    def forward(self, forecast: Tensor) -> tuple[Tensor, Tensor]:
        """Return the revised forecast [B, H, C, Q] and the forecast means [B, S, C, Q] that revised it."""
        fine = forecast.transpose(1, 3)  # [B, Q, C, H]
        means = self.forecast_means(fine)  # [B, Q, C, S]
        rest = means.shape[-1] * self.length - fine.shape[-1]
        segments = torch.unflatten(functional.pad(fine, (0, rest)), -1, (-1, self.length))  # [B, Q, C, S, length]
        revision = self.revise(torch.cat([segments, means.unsqueeze(-1)], dim=-1))  # [B, Q, C, S, length]
        revised = fine + revision.flatten(-2)[..., : fine.shape[-1]]  # [B, Q, C, H]
        return revised.transpose(1, 3), means.transpose(1, 3)

    def average(self, values: Tensor) -> Tensor:
        """Average each segment, [B, H, ...] to [B, S, ...]."""
        return torch.einsum("sh,bh...->bs...", self.weights, values)

    def spread(self, means: Tensor) -> Tensor:
        """Repeat each segment's mean at all its steps, [B, S, ...] to [B, H, ...]; `average` reverses this."""
        return means[:, self.segment]


class ChannelReconciliation(nn.Module):
    """Revise each step of a forecast by all channels' forecasts around it (arXiv 2306.09364).

    The forecasts of all channels from `context` steps before to `context` steps after a step (the edges are repeated)
    pass a gate and a linear map, whose result is added to the channels' forecasts of the step. Each output is revised
    separately, with the same weights. An untrained head changes nothing.
    """

    def __init__(self, channels: int, horizon: int, context: int) -> None:
        super().__init__()
        around = torch.arange(horizon)[:, None] + torch.arange(-context, context + 1)  # [H, 2 context + 1]
        self.register_buffer("around", around.clamp(0, horizon - 1), persistent=False)
        size = around.shape[1] * channels
        self.gate = GatedAttention(size)
        self.revise = nn.Linear(size, channels)
        nn.init.zeros_(self.revise.weight)
        nn.init.zeros_(self.revise.bias)

    around: Tensor

    def forward(self, forecast: Tensor) -> Tensor:
        """Revise [B, H, C, Q]."""
        windows = forecast[:, self.around].permute(0, 1, 4, 2, 3).flatten(3)  # [B, H, Q, (2 context + 1) * C]
        revision: Tensor = self.revise(self.gate(windows))  # [B, H, Q, C]
        return forecast + revision.transpose(2, 3)
