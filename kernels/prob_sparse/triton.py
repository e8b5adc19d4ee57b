"""ProbSparse attention on a GPU: launches of the kernels in `programs`, forward and backward.

No run-time tuning and no atomic sums: block sizes and the number of key splits follow from shapes alone, and partial
sums are added in index order. So the same call gives the same bits on every GPU of a kind.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels.prob_sparse import programs as kernel
from kernels.triton_support import FUSED, load_triton, on_device_of

triton = load_triton().triton

# B batch, H heads, LQ queries, LK keys, D head size, U sampled keys, u selected queries, S splits of the keys

KEY_BLOCK: Final = 64
QUERY_BLOCK: Final = 64
SAMPLE_BLOCK: Final = 64
_PROGRAMS_WANTED: Final = 256  # about two per multiprocessor of an A100 or H100


@dataclass(frozen=True, slots=True)
class Plan:
    """Block sizes and splits of one call, from its shapes."""

    pairs: int  # B * H
    head_block: int  # D padded to a power of two of at least 16, what tl.dot needs
    selected_block: int  # u padded likewise
    block: int  # keys
    blocks: int
    splits: int
    blocks_per_split: int
    warps: int
    stages: int
    precision: str


def plan_for(query: Tensor, key: Tensor, count: int, *, backward: bool = False) -> Plan:
    """Choose block sizes and splits. Keys are split if (batch, head) pairs alone would leave a GPU idle."""
    pairs = query.shape[0] * query.shape[1]
    head_block = max(16, triton.next_power_of_2(query.shape[3]))
    selected_block = max(16, triton.next_power_of_2(count))
    large = head_block * selected_block > 4096
    # Backward multiplies by the selected queries twice and their gradients twice. Before Hopper such operands live in
    # registers: smaller blocks of keys and no loads ahead keep them from spilling.
    tight = backward and (large or not _on_hopper(query))
    block = KEY_BLOCK // 2 if tight else KEY_BLOCK
    blocks = triton.cdiv(key.shape[2], block)
    per_split = triton.cdiv(blocks, min(blocks, triton.cdiv(_PROGRAMS_WANTED, pairs)))
    return Plan(
        pairs=pairs,
        head_block=head_block,
        selected_block=selected_block,
        block=block,
        blocks=blocks,
        splits=triton.cdiv(blocks, per_split),
        blocks_per_split=per_split,
        # Before Hopper four warps spill the causal form (Triton 3.7), eight do not.
        warps=8 if backward or large or not _on_hopper(query) else 4,
        stages=1 if tight else 2,
        # float32 products stay float32: tf32 would select other queries than the CPU does.
        precision="ieee" if query.dtype is torch.float32 else "tf32",
    )


def forward(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, *, count: int, causal: bool, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output [B, H, LQ, D], the selected queries [B, H, u] ascending, and their log-sum-exp [B, H, u]."""
    B, H, LQ, D = query.shape
    LK = key.shape[2]
    plan = plan_for(query, key, count)
    top = select(query, key, keys, count=count, divisor=divisor)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    lse = _floats(query, B, H, count)
    accumulated = _floats(query, plan.pairs, plan.splits, count, D)
    largest, total = _floats(query, plan.pairs, plan.splits, count), _floats(query, plan.pairs, plan.splits, count)
    sums = _floats(query, plan.pairs, plan.blocks if causal else plan.splits, D)
    blocks = {"BD": plan.head_block, "BS": plan.selected_block, "BK": plan.block, "CAUSAL": causal}
    with on_device_of(query):
        kernel.attend_split[(plan.pairs, plan.splits)](
            *(query, key, value, top, accumulated, largest, total, sums),
            *(*query.stride(), *key.stride(), *value.stride()),
            *(H, LK, D, count, plan.splits, plan.blocks_per_split, plan.blocks, 1 / math.sqrt(D)),
            **blocks,
            PRECISION=plan.precision,
            num_warps=plan.warps,
            num_stages=plan.stages,
            enable_fp_fusion=FUSED,
        )
        kernel.finish_forward[(plan.pairs, triton.cdiv(LQ, plan.block) + 1)](
            *(value, top, accumulated, largest, total, sums, out, lse),
            *value.stride(),
            *(H, LQ, LK, D, count, plan.splits, plan.blocks_per_split, plan.blocks),
            **blocks,
            num_warps=plan.warps,
            num_stages=plan.stages,
            enable_fp_fusion=FUSED,
        )
    return out, top, lse


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    top: Tensor,
    lse: Tensor,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, contiguous."""
    H, LQ, D = query.shape[1:]
    LK, count = key.shape[2], top.shape[2]
    plan = plan_for(query, key, count, backward=True)
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (query, key, value))
    query_blocks = triton.cdiv(LQ, plan.block)
    per_split = plan.blocks_per_split if causal else triton.cdiv(query_blocks, plan.splits)
    splits = triton.cdiv(query_blocks, per_split)
    sums = _floats(query, plan.pairs, query_blocks if causal else splits, D)
    dq_parts = _floats(query, plan.pairs, plan.splits, count, D)
    blocks = {"BD": plan.head_block, "BS": plan.selected_block, "BK": plan.block}
    with on_device_of(query):
        kernel.sum_unselected[(plan.pairs, splits)](
            *(grad, top, sums),
            *grad.stride(),
            *(H, LQ, D, count, splits, per_split, query_blocks),
            **blocks,
            CAUSAL=causal,
            num_warps=4,
            enable_fp_fusion=FUSED,
        )
        kernel.differentiate_split[(plan.pairs, plan.splits)](
            *(query, key, value, out, grad, top, lse, sums, dq_parts, dk, dv),
            *(*query.stride(), *key.stride(), *value.stride(), *out.stride(), *grad.stride()),
            *(H, LK, D, count, plan.splits, splits, plan.blocks_per_split, plan.blocks, 1 / math.sqrt(D)),
            **blocks,
            CAUSAL=causal,
            PRECISION=plan.precision,
            num_warps=plan.warps,
            num_stages=plan.stages,
            enable_fp_fusion=FUSED,
        )
        kernel.finish_query_gradient[(plan.pairs, query_blocks + 1)](
            *(top, dq_parts, dq),
            *(LQ, D, count, plan.splits),
            **blocks,
            num_warps=4,
            enable_fp_fusion=FUSED,
        )
    return dq, dk, dv


def select(query: Tensor, key: Tensor, keys: Tensor, *, count: int, divisor: int) -> Tensor:
    """Select the queries [B, H, u], int64, ascending."""
    B, H, LQ, D = query.shape
    plan = plan_for(query, key, count)
    measure = _floats(query, B, H, LQ)
    top = torch.empty((B, H, count), dtype=torch.int64, device=query.device)
    grid = (plan.pairs, triton.cdiv(LQ, QUERY_BLOCK))
    given = (query, key, keys, measure, *query.stride(), *key.stride())
    with on_device_of(query):
        if keys.dim() == 1:
            kernel.measure_shared[grid](
                *given,
                *(keys.stride(0), H, LQ, key.shape[2], D, keys.shape[0], 1 / divisor),
                BQ=QUERY_BLOCK,
                BU=SAMPLE_BLOCK,
                BD=plan.head_block,
                PRECISION=plan.precision,
                num_warps=4,
                enable_fp_fusion=FUSED,
            )
        else:
            kernel.measure_independent[grid](
                *given,
                *(*keys.stride(), H, LQ, key.shape[2], D, keys.shape[1], 1 / divisor),
                BQ=QUERY_BLOCK,
                BD=plan.head_block,
                num_warps=4,
                enable_fp_fusion=FUSED,
            )
        padded = triton.next_power_of_2(LQ)
        kernel.select_largest[(plan.pairs,)](
            measure, top, LQ, count, BL=padded, num_warps=4 if padded <= 2048 else 8, enable_fp_fusion=FUSED
        )
    return top


def _on_hopper(tensor: Tensor) -> bool:
    return not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device) >= (9, 0)


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
