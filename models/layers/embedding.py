"""From whole series to tokens: one token per variate."""

from torch import Tensor, nn


class VariateEmbedding(nn.Module):
    """Embed each variate's whole history as one token, the same map for every variate of a kind.

    Values [B, T, V] in, tokens [B, V, D] out. Source: arXiv 2310.06625, section 3.1.
    """

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(steps, width)

    def forward(self, values: Tensor) -> Tensor:
        """Read each column over time."""
        tokens: Tensor = self.project(values.transpose(1, 2))
        return tokens  # [B, V, D]
