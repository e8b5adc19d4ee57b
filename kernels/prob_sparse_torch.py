"""ProbSparse attention in plain torch: fast on a CPU, the fallback elsewhere, and the form that is exported.

No sampled key is materialised. With one sample for all queries the measure is a product of LQ x D by D x U; work goes
through in pieces of a few (batch, head) pairs so that scores stay in cache and memory stays O(B H L).
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from kernels.precision import working_dtype

# B batch, H heads, LQ queries, LK keys, D head size, U sampled keys, u selected queries, P pairs (b, h) of a piece

# About 2 MB of float32 scores a piece: what a core's L2 holds. A GPU wants few launches instead.
_PIECE: Final = {"cpu": 1 << 19}
_PIECE_ELSEWHERE: Final = 1 << 27


def forward(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, *, count: int, causal: bool, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Output [B, H, LQ, D], selected queries [B, H, u] ascending, and their log-sum-exp [B, H, u]."""
    exact = working_dtype(query.dtype)
    top = select(scores_of(query, key, keys, divisor=divisor), count)  # [B, H, u]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = torch.empty(top.shape, dtype=exact, device=query.device)
    for q, k, v, chosen, out_piece, lse_piece in pieces(count * key.shape[2], query, key, value, top, out, lse):
        values = v.to(exact)
        rows = chosen[..., None].expand(-1, -1, query.shape[3])  # [P, u, D]
        weights, lse_rows = _weights(q.gather(1, rows).to(exact), k.to(exact), chosen, causal=causal)
        lse_piece.copy_(lse_rows[..., 0])
        out_piece.copy_(values.cumsum(1) if causal else values.mean(1, keepdim=True))
        out_piece.scatter_(1, rows, torch.bmm(weights, values).to(out.dtype))
    return out, top, lse


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, top: Tensor, lse: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; the selection has none. Sums run in one order: results repeat bit by bit."""
    exact = working_dtype(query.dtype)
    D, LK = query.shape[3], key.shape[2]
    grads = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (query, key, value))
    split = pieces(top.shape[2] * LK, grad, query, key, value, top, lse, *grads)
    for g, q, k, v, chosen, lse_piece, dq, dk, dv in split:
        upstream, keys_exact = g.to(exact), k.to(exact)
        rows = chosen[..., None].expand(-1, -1, D)  # [P, u, D]
        picked, upstream_rows = q.gather(1, rows).to(exact), upstream.gather(1, rows)
        weights, _ = _weights(picked, keys_exact, chosen, causal=causal, lse=lse_piece[..., None])  # [P, u, LK]
        slope = torch.bmm(upstream_rows, v.to(exact).transpose(1, 2))  # [P, u, LK]
        slope.sub_((weights * slope).sum(-1, keepdim=True)).mul_(weights).mul_(1 / math.sqrt(D))
        dq.zero_().scatter_(1, rows, torch.bmm(slope, keys_exact).to(dq.dtype))
        dk.copy_(torch.bmm(slope.transpose(1, 2), picked))
        # Selected rows are blanked, not subtracted afterwards: an infinite gradient there must not reach the others.
        others = upstream.scatter(1, rows, 0.0)
        context = others.flip(1).cumsum(1).flip(1) if causal else others.sum(1, keepdim=True) / LK
        dv.copy_(torch.bmm(weights.transpose(1, 2), upstream_rows).add_(context))
    return grads


def exportable(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, *, count: int, causal: bool, divisor: int
) -> Tensor:
    """Compute the same without pieces or in-place writes: what torch.export and ONNX can hold, the batch left free."""
    exact = working_dtype(query.dtype)
    q, k, v = query.to(exact), key.to(exact), value.to(exact)
    D, LK = query.shape[3], key.shape[2]
    if keys.dim() == 1:
        sampled = q @ k.index_select(2, keys).transpose(2, 3)  # [B, H, LQ, U]
    else:
        sampled = (q @ k.transpose(2, 3)).gather(3, keys.expand(q.shape[0], q.shape[1], -1, -1))
    measure = sampled.amax(-1) - sampled.sum(-1) / divisor
    measure = torch.where(measure.isnan(), -math.inf, measure)
    # ONNX's TopK gives ties to the lowest index by definition; torch's own topk leaves them open, and a stable sort
    # has no ONNX translation.
    top = measure.detach().topk(count, dim=-1).indices  # [B, H, u]
    rows = top[..., None].expand(-1, -1, -1, D)
    scores = q.gather(2, rows) @ k.transpose(2, 3) / math.sqrt(D)  # [B, H, u, LK]
    if causal:
        scores = scores.masked_fill(torch.arange(LK, device=key.device) > top[..., None], -math.inf)
    context = v.cumsum(2) if causal else v.mean(2, keepdim=True).expand(-1, -1, query.shape[2], -1)
    return context.scatter(2, rows, scores.softmax(-1) @ v).to(query.dtype)


def scores_of(query: Tensor, key: Tensor, keys: Tensor, *, divisor: int) -> Tensor:
    """Score queries: the measure M [B, H, LQ] over sampled `keys` [U] or [LQ, U], NaN as -inf."""
    exact = working_dtype(query.dtype)
    measure = torch.empty(query.shape[:3], dtype=exact, device=query.device)
    row = keys.shape[-1] + 1 if keys.dim() == 1 else key.shape[2]
    for q, k, measured in pieces(query.shape[2] * row, query, key, measure):
        if keys.dim() == 1:
            sampled = k[:, keys].to(exact)  # [P, U, D]
            # The sum of scores is the score of the summed key: one more row of the same product.
            rows = torch.cat((sampled, sampled.sum(1, keepdim=True)), 1)
            scores = torch.bmm(rows, q.to(exact).transpose(1, 2))  # [P, U + 1, LQ]
            torch.sub(scores[:, :-1].amax(1), scores[:, -1], alpha=1 / divisor, out=measured)
        else:
            # All scores by one dense product, then the sampled ones: faster on a CPU than gathering LQ x U keys.
            every = torch.bmm(q.to(exact), k.to(exact).transpose(1, 2))  # [P, LQ, LK]
            scores = every.gather(2, keys.expand(len(every), -1, -1))  # [P, LQ, U]
            torch.sub(scores.amax(2), scores.sum(2), alpha=1 / divisor, out=measured)
    return measure.masked_fill_(measure.isnan(), -math.inf)


def select(measure: Tensor, count: int) -> Tensor:
    """Pick the indices [B, H, u] of the largest values, ascending, ties to the lowest; `measure` holds no NaN."""
    if measure.dtype is not torch.float32:
        return measure.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values
    # topk leaves ties open: value (bits that keep the order) and LQ - 1 - index become one integer without ties.
    length = measure.shape[-1]
    bits = (measure + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    backwards = torch.arange(length - 1, -1, -1, device=measure.device)
    best = (ordered.to(torch.int64) * (1 << 32) + backwards).topk(count, dim=-1, sorted=False).values
    return (length - 1 - (best & 0xFFFFFFFF)).sort(-1).values


def pieces(scores_per_pair: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors [B, H, ...] into views [P, ...] of a few (batch, head) pairs at a time; never copies."""
    B, H = tensors[0].shape[:2]
    size = max(1, _PIECE.get(tensors[0].device.type, _PIECE_ELSEWHERE) // scores_per_pair)
    if all(B == 1 or H == 1 or t.stride(0) == H * t.stride(1) for t in tensors):
        flat = [t.flatten(0, 1) for t in tensors]
        for start in range(0, B * H, size):
            yield tuple(t[start : start + size] for t in flat)
        return
    for batch in range(B):
        for start in range(0, H, size):
            yield tuple(t[batch, start : start + size] for t in tensors)


def _weights(
    picked: Tensor, key: Tensor, chosen: Tensor, *, causal: bool, lse: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    scores = torch.bmm(picked, key.transpose(1, 2)).mul_(1 / math.sqrt(picked.shape[2]))  # [P, u, LK]
    if causal:
        scores.masked_fill_(torch.arange(key.shape[1], device=key.device) > chosen[..., None], -math.inf)
    if lse is None:
        lse = scores.logsumexp(-1, keepdim=True)
    return scores.sub_(lse).exp_(), lse
