"""The two-layer perceptron inside every block, and the gate that mixers put around it."""

from torch import Tensor, nn

from models.layers.dropout import Dropout


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, Linear, dropout over the last dimension, which keeps its size."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width), Dropout(dropout)
        )


class GatedAttention(nn.Module):
    """`x * softmax(W x + b)` over the last dimension: a soft choice of features.

    Source: arXiv 2306.09364, section 3.2 ("gated attention").
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Weigh each feature, [..., width] in and out."""
        weighed: Tensor = features * self.score(features).softmax(dim=-1)
        return weighed
