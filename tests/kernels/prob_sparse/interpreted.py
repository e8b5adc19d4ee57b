"""ProbSparse kernels under TRITON_INTERPRET=1, started by test_interpreted_kernels.py; bfloat16 is wrong there."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.agreement import compare
from kernels.prob_sparse import prob_sparse_attention, prob_sparse_queries, prob_sparse_route
from kernels.prob_sparse import torch as prob_sparse_torch
from kernels.prob_sparse import triton as prob_sparse_triton
from kernels.prob_sparse.reference import prob_sparse_reference, reference_selection, sample_size
from kernels.prob_sparse.sampling import draw_keys


@pytest.fixture(autouse=True)
def every_buffer_starts_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def poisoned(*shape: Any, **options: Any) -> Tensor:
        fresh = empty(*shape, **options)
        return fresh.fill_(math.nan) if fresh.is_floating_point() else fresh.fill_(-(2**40))

    monkeypatch.setattr(torch, "empty", poisoned)


def qkv(
    length: int, *, keys: int | None = None, size: int = 20, dtype: torch.dtype = torch.float32, batch: int = 1
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(length)
    return {
        name: torch.randn(batch, L, 2, size, generator=draw).to(dtype).transpose(1, 2)
        for name, L in zip(("query", "key", "value"), (length, keys or length, keys or length), strict=True)
    }


def require_agreement(
    tensors: dict[str, Tensor],
    *,
    sampling: str = "shared",
    causal: bool = False,
    measure: str = "paper",
    factor: int = 5,
) -> None:
    query, key = tensors["query"], tensors["key"]
    LK = key.shape[2]
    keys = draw_keys(
        sampling,
        query_length=query.shape[2],
        key_length=LK,
        count=sample_size(LK, factor),
        seed=0,
        device=query.device,
    )
    assert prob_sparse_route(query, key, factor=factor).path == "triton"
    chosen = prob_sparse_queries(query, key, keys=keys, measure=measure, factor=factor)
    plain = prob_sparse_torch.scores_of(query, key, keys, divisor=LK if measure == "paper" else keys.shape[-1])
    assert torch.equal(chosen, prob_sparse_torch.select(plain, chosen.shape[2]))
    compare(
        lambda **t: prob_sparse_attention(**t, keys=keys, causal=causal, measure=measure, factor=factor),
        lambda **t: prob_sparse_reference(
            **t, keys=keys, causal=causal, measure=measure, factor=factor, selected=chosen
        ),
        tensors,
    ).require()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 7, 100])
def test_outputs_and_gradients_equal_the_reference(length: int, causal: bool) -> None:
    require_agreement(qkv(length), causal=causal)


@pytest.mark.parametrize(("programs", "causal"), [(2, True), (4, False), (4, True), (6, True)])
def test_splits_of_several_blocks_are_added_completely(
    programs: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 257 keys are five blocks; two (batch, head) pairs: 1, 2 and 3 splits of 5, 3 and 2 blocks, the last one short.
    monkeypatch.setattr(prob_sparse_triton, "_PROGRAMS_WANTED", programs)
    tensors = qkv(257)
    plan = prob_sparse_triton.plan_for(tensors["query"], tensors["key"], 30)
    assert (plan.splits, plan.blocks_per_split) == {2: (1, 5), 4: (2, 3), 6: (3, 2)}[programs]
    require_agreement(tensors, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_the_smaller_blocks_of_older_gpus_give_the_same(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prob_sparse_triton, "_on_hopper", lambda _: False)
    require_agreement(qkv(100), causal=causal)


@pytest.mark.parametrize("measure", ["paper", "sampled_mean"])
def test_independent_samples_give_the_same_queries_as_plain_torch(measure: str) -> None:
    require_agreement(qkv(40), sampling="independent", measure=measure)


@pytest.mark.parametrize(("queries", "keys"), [(7, 100), (100, 7)])
def test_queries_and_keys_may_differ_in_length(queries: int, keys: int) -> None:
    require_agreement(qkv(queries, keys=keys))


@pytest.mark.parametrize("size", [1, 80])
def test_head_sizes_need_not_be_powers_of_two(size: int) -> None:
    require_agreement(qkv(40, size=size))


def test_half_precision_loses_no_more_than_its_rounding() -> None:
    require_agreement(qkv(40, dtype=torch.float16), causal=True)


def test_a_broadcast_input_with_zero_strides_is_read_correctly() -> None:
    tensors = qkv(40, batch=2)
    tensors["key"] = tensors["key"][:1].expand(2, -1, -1, -1)
    require_agreement(tensors)


def test_more_samples_than_a_block_and_every_query_selected() -> None:
    require_agreement(qkv(70), factor=40)


def test_ties_infinities_and_nan_select_as_the_reference_does() -> None:
    kernel = prob_sparse_triton.kernel.select_largest
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1e-40, 2.0, math.inf, math.nan])
    measure: Tensor = values[torch.randint(8, (4, 1, 37), generator=draw)]
    for count in (1, 5, 36, 37):
        top = torch.empty((4, 1, count), dtype=torch.int64)
        kernel[(4,)](measure, top, 37, count, BL=64)
        assert torch.equal(top, reference_selection(measure, count))


def test_keys_outside_the_tensor_are_not_read() -> None:
    tensors = qkv(20)
    prob_sparse_attention(**tensors, keys=torch.tensor([3, -1, 10**9]))


def test_the_same_call_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        leaves = {name: t.clone().requires_grad_() for name, t in qkv(70).items()}
        out = prob_sparse_attention(**leaves, causal=True)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
