"""Attention between tokens without order."""

from torch import Tensor, nn
from torch.nn import functional

from models.errors import WidthNotDivisibleError

# B batch, N tokens, K tokens with queries, D width


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

    def forward(self, tokens: Tensor, keep: int | None = None) -> Tensor:
        """Attend from every token to every token; with `keep` only from the first ones, [B, keep, D] out."""
        query, key, value = self._heads(tokens)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query[:, :, :keep], key, value, dropout_p=dropout)
        merged: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))  # from [B, heads, K, D/heads]
        return merged  # [B, K, D]

    def weights(self, tokens: Tensor) -> Tensor:
        """Compute the attention weights of each token (rows) to each token (columns): [B, heads, N, N], rows sum to 1.

        The fused kernels never store these weights; dropout is not applied to them.
        """
        query, key, _ = self._heads(tokens)
        scores: Tensor = query @ key.mT * query.shape[-1] ** -0.5  # [B, heads, N, N]
        return scores.softmax(dim=-1)

    def _heads(self, tokens: Tensor) -> list[Tensor]:
        # Three parts first and heads within each: the gradient then puts whole rows side by side, a cheaper copy.
        parts = self.project(tokens).chunk(3, dim=-1)
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]  # each [B, heads, N, D/heads]
