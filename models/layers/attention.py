"""Attention between tokens without order."""

from torch import Tensor, nn
from torch.nn import functional

from models.errors import WidthNotDivisibleError


class SelfAttention(nn.Module):
    """Full multi-head self-attention through torch's fused kernels.

    Tokens [B, N, D] in, [B, N, D] out. Queries, keys and values come from one matrix product; rows `[0:D]`, `[D:2D]`
    and `[2D:3D]` of `project.weight` are the three projections. Source: arXiv 1706.03762, section 3.2.

    Raises:
        WidthNotDivisibleError: `width` is no multiple of `heads`.

    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise WidthNotDivisibleError(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token look at every token."""
        count, width = tokens.shape[1:]
        qkv = self.project(tokens).view(-1, count, 3, self.heads, width // self.heads)  # [B, N, 3, heads, D/heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, D/heads]
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # [B, heads, N, D/heads]
        merged: Tensor = self.merge(mixed.transpose(1, 2).reshape(-1, count, width))
        return merged  # [B, N, D]
