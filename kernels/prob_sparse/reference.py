"""ProbSparse attention as the paper writes it (Informer, arXiv 2012.07436, section 3.2, algorithm 1).

The reference of all tests: plain, differentiable by autograd, exact in float64, and wasteful: it materialises every
sampled key. The service never calls it.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["paper", "sampled_mean"]

# B batch, H heads, LQ queries, LK keys, D head size, U sampled keys, u selected queries


def sample_size(length: int, factor: int) -> int:
    """Count the keys to sample, or queries to select: min(L, factor * ceil(ln L)), but at least 1, as ln 1 is 0.

    >>> sample_size(96, factor=5)
    25
    """
    return max(1, min(length, factor * math.ceil(math.log(length))))


def reference_measure(query: Tensor, key: Tensor, keys: Tensor, *, measure: Measure = "paper") -> Tensor:
    """Return M [B, H, LQ]: a query's largest sampled score minus the sum of its sampled scores over LK (or over U)."""
    per_query = keys.expand(query.shape[2], -1)  # [LQ, U]
    sampled = key[:, :, per_query]  # [B, H, LQ, U, D]
    scores = torch.einsum("bhld,bhlud->bhlu", query, sampled)
    divisor = key.shape[2] if measure == "paper" else keys.shape[-1]
    return scores.amax(-1) - scores.sum(-1) / divisor


def reference_selection(measure: Tensor, count: int) -> Tensor:
    """Pick the indices [B, H, u] of the largest values, ascending; NaN counts as -inf, ties go to the lowest index."""
    ranked = measure.detach().masked_fill(measure.isnan(), -math.inf)
    return ranked.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values


def prob_sparse_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    *,
    factor: int = 5,
    causal: bool = False,
    measure: Measure = "paper",
    selected: Tensor | None = None,
) -> Tensor:
    """Attend, [B, H, LQ, D].

    `selected` [B, H, u] fixes the queries: lower precisions may order near-ties otherwise.
    """
    LQ, LK, D = query.shape[2], key.shape[2], query.shape[3]
    if selected is None:
        scored = reference_measure(query, key, keys, measure=measure)
        selected = reference_selection(scored, sample_size(LQ, factor))  # [B, H, u]
    rows = selected[..., None].expand(-1, -1, -1, D)  # [B, H, u, D]
    scores = query.gather(2, rows) @ key.transpose(2, 3) / math.sqrt(D)  # [B, H, u, LK]
    if causal:
        future = torch.arange(LK, device=key.device) > selected[..., None]
        scores = scores.masked_fill(future, -math.inf)
    attended = scores.softmax(-1) @ value  # [B, H, u, D]
    context = value.cumsum(2) if causal else value.mean(2, keepdim=True).expand_as(query)
    return context.scatter(2, rows, attended)  # [B, H, LQ, D]
