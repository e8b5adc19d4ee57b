"""ProbSparse attention in plain torch: fast on a CPU, the fallback elsewhere, and the form for export.

No sampled key is materialised. With one sample for all queries the measure is a product of LQ x D by D x U; work goes
through in pieces of a few (batch, head) pairs so that scores stay in cache and memory stays O(B H L).
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from kernels.precision import working_dtype

# B batch, H heads, LQ queries, LK keys, D head size, U sampled keys, u selected queries, b, h those of a piece

# About 4 MB of float32 scores per piece: a share of the last-level cache. A GPU needs few launches instead.
_PIECE: Final = {"cpu": 1 << 20}
_PIECE_ELSEWHERE: Final = 1 << 27


def forward(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, *, count: int, causal: bool, divisor: int
) -> tuple[Tensor, Tensor]:
    """Return the output [B, H, LQ, D] and the selected queries [B, H, u], ascending."""
    exact = working_dtype(query.dtype)
    top = select(scores_of(query, key, keys, divisor=divisor), count)  # [B, H, u]
    rows = _rows(top)
    picked = _selected_queries(query, top)  # [B, H, u + 1, D]
    attended = torch.empty_like(picked)
    for q, k, v, chosen, found in pieces(picked.shape[2] * key.shape[2], picked, key, value, top, attended):
        _multiply(_weights(q, k.to(exact), chosen, causal=causal), v.to(exact), found)
    out = torch.empty(query.shape, dtype=exact, device=query.device)
    if causal:
        torch.cumsum(value, 2, dtype=exact, out=out)
    else:
        out.copy_(attended[:, :, -1:])
    out[rows] = attended[:, :, :-1]
    return out.to(query.dtype), top


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, top: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value; the selection has none. Results repeat bit by bit."""
    exact = working_dtype(query.dtype)
    rows = _rows(top)
    picked = _selected_queries(query, top)  # [B, H, u + 1, D]
    upstream = functional.pad(grad[rows].to(exact), (0, 0, 0, 1))  # [B, H, u + 1, D]
    # Of a row: the sum over keys of weight times slope, which is the output times its gradient.
    share = functional.pad(out[rows].to(exact), (0, 0, 0, 1)).mul_(upstream).sum(-1, keepdim=True)  # [B, H, u + 1, 1]
    others = torch.ones(grad.shape[:3], dtype=exact, device=grad.device)
    others[rows] = 0
    dpicked = torch.empty_like(picked)
    dk, dv = (torch.empty(t.shape, dtype=exact, device=t.device) for t in (key, value))
    inputs = (picked, key, value, top, grad, upstream, share, others)
    for q, k, v, chosen, g, up, shared, other, *grads in pieces(
        picked.shape[2] * key.shape[2], *inputs, dpicked, dk, dv
    ):
        keys = k.to(exact)
        weights = _weights(q, keys, chosen, causal=causal)  # [b, h, u + 1, LK]
        if not causal:
            up[:, :, -1:] = _summed(g.to(exact), other)
        slope = _multiply(up, v.to(exact).mT).sub_(shared).mul_(weights)  # [b, h, u + 1, LK]
        slope[:, :, -1] = 0.0  # equal weights depend on no score
        _multiply(slope, keys, grads[0])
        _multiply(slope.mT, q, grads[1])
        _multiply(weights.mT, up, grads[2])
    if causal:
        dv.add_(_zeroed(grad.to(exact), others).flip(2).cumsum(2).flip(2))
    dq = torch.zeros(query.shape, dtype=exact, device=query.device)
    dq[rows] = dpicked[:, :, :-1].mul_(1 / math.sqrt(query.shape[3]))
    return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def exportable(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, *, count: int, causal: bool, divisor: int
) -> Tensor:
    """Compute `forward` without pieces or in-place writes, as torch.export and ONNX need, for any batch size."""
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
    if keys.dim() == 1:
        # The sum of scores is the score of the summed key: one more row of the same product.
        sampled = key.index_select(2, functional.pad(keys, (0, 1))).to(exact)  # [B, H, U + 1, D]
        torch.sum(sampled[:, :, :-1], 2, out=sampled[:, :, -1])
        for q, k, measured in pieces(query.shape[2] * sampled.shape[2], query, sampled, measure):
            scores = _multiply(k, q.to(exact).mT)  # [b, h, U + 1, LQ]
            torch.sub(scores[:, :, :-1].amax(2), scores[:, :, -1], alpha=1 / divisor, out=measured)
    else:
        # All scores by one dense product, then the sampled ones: faster on a CPU than gathering LQ x U keys.
        for q, k, measured in pieces(query.shape[2] * key.shape[2], query, key, measure):
            every = _multiply(q.to(exact), k.to(exact).mT)  # [b, h, LQ, LK]
            scores = every.gather(3, keys.expand(*every.shape[:2], -1, -1))  # [b, h, LQ, U]
            torch.sub(scores.amax(3), scores.sum(3), alpha=1 / divisor, out=measured)
    return measure.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def select(measure: Tensor, count: int) -> Tensor:
    """Pick the indices [B, H, u] of the largest values, ascending, ties to the lowest; `measure` holds no NaN."""
    if measure.device.type == "cpu":
        # Ties with the last selected value are rare; without one no sort is needed. A GPU would wait for the count.
        last = measure.topk(count, sorted=False).values.amin(-1, keepdim=True)
        chosen = (measure >= last).flatten().nonzero()
        if chosen.numel() == last.numel() * count:
            return chosen.remainder_(measure.shape[-1]).view(*measure.shape[:-1], count)
    return measure.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values


def pieces(scores_per_pair: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors [B, H, ...] into views [b, h, ...]: whole batches while they are small, else heads of one."""
    B, H = tensors[0].shape[:2]
    pairs = max(1, _PIECE.get(tensors[0].device.type, _PIECE_ELSEWHERE) // scores_per_pair)
    batches, heads = max(1, pairs // H), math.ceil(H / math.ceil(H / pairs))  # of one size, or nearly
    for batch in range(0, B, batches):
        for head in range(0, H, heads):
            yield tuple(t[batch : batch + batches, head : head + heads] for t in tensors)


def _multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply matrices [b, h, ., .] without the copies that torch.matmul makes if b and h cannot be flattened."""
    if out is None:
        out = torch.empty((*a.shape[:3], b.shape[3]), dtype=a.dtype, device=a.device)
    if all(len(t) == 1 or t.stride(0) == t.shape[1] * t.stride(1) for t in (a, b, out)):
        torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=out.flatten(0, 1))
    else:
        for left, right, product in zip(a, b, out, strict=True):
            torch.bmm(left, right, out=product)
    return out


def _rows(top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index the selected rows of tensors [B, H, LQ, ...] of any strides."""
    B, H = top.shape[:2]
    return torch.arange(B, device=top.device)[:, None, None], torch.arange(H, device=top.device)[:, None], top


def _selected_queries(query: Tensor, top: Tensor) -> Tensor:
    """Gather the selected queries, scaled, and one spare row at the end: [B, H, u + 1, D]."""
    rows = query[_rows(functional.pad(top, (0, 1)))]
    return rows.to(working_dtype(query.dtype)) / math.sqrt(query.shape[3])


def _weights(picked: Tensor, key: Tensor, chosen: Tensor, *, causal: bool) -> Tensor:
    """Weigh keys [b, h, u + 1, LK]; the last row is uniform, so that the products that follow include mean(V)."""
    scores = _multiply(picked, key.mT)
    if causal:
        scores[:, :, :-1].masked_fill_(torch.arange(key.shape[2], device=key.device) > chosen[..., None], -math.inf)
    scores[:, :, -1] = 0.0
    return scores.softmax(-1)


def _summed(grad: Tensor, others: Tensor) -> Tensor:
    """Sum the rows [b, h, 1, D] of `grad` that `others` [b, h, LQ] marks with 1."""
    total = _multiply(others.unsqueeze(2), grad)
    # Zero times infinity is NaN: an infinite gradient of a selected row must not reach the others.
    return total if bool(total.isfinite().all()) else _zeroed(grad, others).sum(2, keepdim=True)


def _zeroed(grad: Tensor, others: Tensor) -> Tensor:
    return grad.masked_fill((others == 0).unsqueeze(-1), 0.0)
