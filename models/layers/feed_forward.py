"""The two-layer perceptron inside every block, and the gate that mixers put around it."""

from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from models.layers.dropout import Dropout


class ColumnLinear(nn.Linear):
    """`nn.Linear` over the second-last dimension, [G, in, M] in and [G, out, M] out.

    Equal to moving that dimension to the end and back, without the two copies.
    """

    def forward(self, columns: Tensor) -> Tensor:
        """Multiply the weight on the left."""
        return torch.baddbmm(self.bias.unsqueeze(1), self.weight.expand(len(columns), -1, -1), columns)


_LINEAR: Final = MappingProxyType({-1: nn.Linear, -2: ColumnLinear})


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, Linear, dropout over dimension `dim` (-1, or -2 of [G, width, M]); same shape out."""

    def __init__(self, width: int, hidden: int, dropout: float, dim: int = -1) -> None:
        linear = _LINEAR[dim]
        super().__init__(linear(width, hidden), nn.GELU(), Dropout(dropout), linear(hidden, width), Dropout(dropout))


class GatedAttention(nn.Module):
    """`x * softmax(W x + b)` over dimension `dim` (-1, or -2 of [G, width, M]): a soft choice of features.

    Source: arXiv 2306.09364, section 3.2 ("gated attention").
    """

    def __init__(self, width: int, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim
        self.score = _LINEAR[dim](width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Weigh each feature; same shape in and out."""
        weighed: Tensor = features * self.score(features).softmax(dim=self.dim)
        return weighed
