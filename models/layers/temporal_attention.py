"""Attention between steps of time: ProbSparse or full, causal or not, within one sequence or from one to another."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.prob_sparse import prob_sparse_attention
from kernels.prob_sparse.reference import sample_size
from kernels.prob_sparse.sampling import Sampling, draw_keys
from models.errors import WidthNotDivisibleError

# B batch, N steps, M remembered steps, D width, U sampled keys


@dataclass(frozen=True, slots=True)
class ProbSparse:
    """How ProbSparse attention samples the keys for its measure of queries, see `kernels.prob_sparse`."""

    factor: int
    sampling: Sampling

    def fixed_keys(self, steps: int) -> Tensor:
        """Draw the sample of every evaluation, the same on every machine: [U] if shared, else [N, U]."""
        count, device = sample_size(steps, self.factor), torch.device("cpu")
        return draw_keys(self.sampling, query_length=steps, key_length=steps, count=count, seed=0, device=device)

    def fresh_keys(self, steps: int, device: torch.device) -> Tensor:
        """Draw the sample of one training step from torch's generator, in the same shape.

        A shared sample holds no key twice; independent ones may, as in the authors' code.
        """
        count = sample_size(steps, self.factor)
        if self.sampling == "shared":
            return torch.randperm(steps, device=device)[:count]
        return torch.randint(steps, (steps, count), device=device)


class TemporalAttention(nn.Module):
    """Multi-head self-attention over time; ProbSparse where `sparse` is given, else full.

    Tokens [B, N, D] in and out. Rows `[0:D]`, `[D:2D]` and `[2D:3D]` of `project.weight` give queries, keys and values.
    While training, ProbSparse samples its keys anew at each call; in evaluation one sample is fixed, so that forecasts
    repeat. Dropout acts on the weights of full attention only, as in the authors' code.

    `mix` merges heads as that code does in its decoder: it reads [B, heads, N, D/heads] as [B, N, D] without
    transposing it back first. A step's output then holds one head's view of other steps, later ones included.

    Sources: arXiv 2012.07436, section 3.2; arXiv 1706.03762, section 3.2.

    Raises:
        WidthNotDivisibleError: `width` is no multiple of `heads`.

    """

    def __init__(
        self,
        steps: int,
        width: int,
        heads: int,
        dropout: float,
        *,
        causal: bool = False,
        sparse: ProbSparse | None = None,
        mix: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise WidthNotDivisibleError(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.causal = causal
        self.sparse = sparse
        self.mix = mix
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        # Constants of the network, not drawn per call: an exported graph would hold the whole generator.
        self.register_buffer("keys", sparse.fixed_keys(steps) if sparse else None, persistent=False)

    keys: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend between all steps, or to earlier steps only if `causal`."""
        steps, width = tokens.shape[1:]
        mixed = self._attend(*self.split(tokens))  # [B, heads, N, D/heads]
        if not self.mix:
            mixed = mixed.transpose(1, 2)  # [B, N, heads, D/heads]
        merged: Tensor = self.merge(mixed.reshape(-1, steps, width))
        return merged  # [B, N, D]

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens to queries, keys and values, each [B, heads, N, D/heads]."""
        steps, width = tokens.shape[1:]
        qkv = self.project(tokens).view(-1, steps, 3, self.heads, width // self.heads)  # [B, N, 3, heads, D/heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.sparse is None:
            dropout = self.dropout if self.training else 0.0
            return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        keys = self.sparse.fresh_keys(key.shape[2], key.device) if self.training else self.keys
        return prob_sparse_attention(query, key, value, factor=self.sparse.factor, causal=self.causal, keys=keys)


class CrossAttention(nn.Module):
    """Full multi-head attention of tokens [B, N, D] to a memory [B, M, D]; [B, N, D] out.

    Source: arXiv 1706.03762, section 3.2.

    Raises:
        WidthNotDivisibleError: `width` is no multiple of `heads`.

    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise WidthNotDivisibleError(width, heads)
        self.heads = heads
        self.dropout = dropout
        self.ask = nn.Linear(width, width)
        self.project = nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Attend from every token to the whole memory."""
        steps, width = tokens.shape[1:]
        size = width // self.heads
        query = self.ask(tokens).view(-1, steps, self.heads, size).transpose(1, 2)  # [B, heads, N, D/heads]
        known = self.project(memory).view(-1, memory.shape[1], 2, self.heads, size)  # [B, M, 2, heads, D/heads]
        key, value = known.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, M, D/heads]
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # [B, heads, N, D/heads]
        merged: Tensor = self.merge(mixed.transpose(1, 2).reshape(-1, steps, width))
        return merged  # [B, N, D]
