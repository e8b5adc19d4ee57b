"""Embed each variate of a window as one token."""

import torch
from torch import Tensor, nn

from models.shape import WindowShape

# B batch, L steps, H horizon, C target channels, P past and F known-future covariates, S statics, D width


class VariateEmbedding(nn.Module):
    """Embed each variate's whole history as one token, the same map for every variate of a kind.

    Values [B, T, V] in, tokens [B, V, D] out. Source: arXiv 2310.06625, section 3.1.
    """

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(steps, width)

    def forward(self, values: Tensor) -> Tensor:
        """Project each variate over time."""
        tokens: Tensor = self.project(values.transpose(1, 2))
        return tokens  # [B, V, D]


class VariateTokens(nn.Module):
    """Every variate of a window as one token: targets first, then past, then known-future covariates.

    With embeddings of their own, past covariates are read over the look-back and known-future covariates over look-back
    and horizon together, which lets a forecast use what is known ahead; static covariates are added to the targets'
    tokens. A `shared` embedding takes all variates over the look-back and reads neither future values nor statics.
    """

    def __init__(self, shape: WindowShape, width: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.targets = VariateEmbedding(shape.lookback, width)
        if not shared:
            if shape.past:
                self.past = VariateEmbedding(shape.lookback, width)
            if shape.future:
                self.future = VariateEmbedding(shape.lookback + shape.horizon, width)
            if shape.static:
                self.static = nn.Linear(shape.static, width)

    def forward(
        self,
        past_target: Tensor,
        past_covariates: Tensor | None,
        historic_future: Tensor | None,
        future: Tensor | None,
        static: Tensor | None,
    ) -> Tensor:
        """Embed a window given as `WindowShape` says, [B, C + P + F, D]."""
        if self.shared:
            known = [part for part in (past_target, past_covariates, historic_future) if part is not None]
            shared: Tensor = self.targets(torch.cat(known, dim=2))
            return shared  # [B, C + P + F, D]
        targets = self.targets(past_target)  # [B, C, D]
        if static is not None:
            targets = targets + self.static(static)  # [B, C, D]
        tokens = [targets]
        if past_covariates is not None:
            tokens.append(self.past(past_covariates))  # [B, P, D]
        if historic_future is not None and future is not None:
            tokens.append(self.future(torch.cat([historic_future, future], dim=1)))  # [B, F, D]
        return torch.cat(tokens, dim=1)
