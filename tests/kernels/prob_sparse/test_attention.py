import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, KernelErrorCode, routing
from kernels.agreement import Agreement, compare, relative_error
from kernels.prob_sparse import prob_sparse_attention, prob_sparse_queries, prob_sparse_route
from kernels.prob_sparse.reference import prob_sparse_reference, reference_measure, reference_selection, sample_size
from kernels.prob_sparse.sampling import draw_keys
from kernels.prob_sparse.torch import select

LENGTHS = (1, 7, 63, 96, 100, 257)


def qkv(
    length: int,
    *,
    keys: int | None = None,
    size: int = 20,
    dtype: torch.dtype = torch.float32,
    batch: int = 2,
    heads: int = 3,
    seed: int = 0,
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = (length, keys or length, keys or length)
    # The layout of projections split into heads: [B, L, H, D] in memory, seen as [B, H, L, D].
    return {
        name: torch.randn(batch, L, heads, size, generator=draw).to(dtype).transpose(1, 2)
        for name, L in zip(("query", "key", "value"), shapes, strict=True)
    }


def sampled(tensors: dict[str, Tensor], sampling: str, factor: int = 5, seed: int = 0) -> Tensor:
    LQ, LK = tensors["query"].shape[2], tensors["key"].shape[2]
    return draw_keys(
        sampling,
        query_length=LQ,
        key_length=LK,
        count=sample_size(LK, factor),
        seed=seed,
        device=tensors["query"].device,
    )


def compare_with_reference(
    tensors: dict[str, Tensor],
    *,
    sampling: str = "shared",
    causal: bool = False,
    measure: str = "paper",
    factor: int = 5,
    **options: Any,
) -> Agreement:
    keys = sampled(tensors, sampling, factor)
    # The same queries on both sides: float32 and float64 may tell near-ties apart.
    chosen = prob_sparse_queries(tensors["query"], tensors["key"], measure=measure, factor=factor, keys=keys)
    return compare(
        lambda **t: prob_sparse_attention(**t, sampling=sampling, causal=causal, measure=measure, factor=factor),
        lambda **t: prob_sparse_reference(
            **t, keys=keys, causal=causal, measure=measure, factor=factor, selected=chosen
        ),
        tensors,
        **options,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sampling", ["shared", "independent"])
@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_and_gradients_equal_the_reference(length: int, sampling: str, causal: bool) -> None:
    compare_with_reference(qkv(length), sampling=sampling, causal=causal).require()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("measure", ["paper", "sampled_mean"])
def test_in_float64_even_the_selection_equals_the_reference(measure: str, causal: bool) -> None:
    tensors = qkv(100, dtype=torch.float64)
    keys = sampled(tensors, "independent")
    compare(
        lambda **t: prob_sparse_attention(**t, keys=keys, causal=causal, measure=measure),
        lambda **t: prob_sparse_reference(**t, keys=keys, causal=causal, measure=measure),
        tensors,
    ).require()


def test_backward_is_the_derivative_of_forward() -> None:
    tensors = qkv(11, size=3, dtype=torch.float64, batch=1, heads=2)
    leaves = [t.clone().requires_grad_() for t in tensors.values()]
    for causal in (False, True):
        assert torch.autograd.gradcheck(
            lambda q, k, v, c=causal: prob_sparse_attention(q, k, v, factor=2, causal=c), leaves
        )


@pytest.mark.parametrize(("queries", "keys"), [(7, 100), (100, 7), (1, 63), (63, 1)])
def test_queries_and_keys_may_differ_in_length(queries: int, keys: int) -> None:
    compare_with_reference(qkv(queries, keys=keys)).require()


@pytest.mark.parametrize("size", [1, 5, 16, 80])
def test_head_sizes_need_not_be_powers_of_two(size: int) -> None:
    compare_with_reference(qkv(63, size=size)).require()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_lose_no_more_than_their_rounding(dtype: torch.dtype) -> None:
    compare_with_reference(qkv(96, dtype=dtype)).require()


def test_a_large_factor_selects_every_query_and_is_full_attention() -> None:
    tensors = qkv(30)
    full = torch.nn.functional.scaled_dot_product_attention(**tensors)
    assert relative_error(prob_sparse_attention(**tensors, factor=30), full) < 1e-6


def test_layout_and_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = qkv(63)
    expected = prob_sparse_attention(**tensors)
    packed = {name: t.contiguous() for name, t in tensors.items()}
    assert relative_error(prob_sparse_attention(**packed), expected) < 1e-6
    monkeypatch.setattr("kernels.prob_sparse.torch._PIECE", {"cpu": 1})
    assert relative_error(prob_sparse_attention(**packed), expected) < 1e-6
    assert relative_error(prob_sparse_attention(**tensors), expected) < 1e-6


def test_a_broadcast_input_with_zero_strides_is_read_correctly() -> None:
    tensors = qkv(40)
    tensors["key"] = tensors["key"][:1].expand(2, -1, -1, -1)
    compare_with_reference(tensors).require()


@given(
    st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1e-40, 2.0, math.inf]), min_size=1, max_size=40), st.data()
)
@settings(max_examples=60, deadline=None)
def test_ties_go_to_the_lowest_index(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    measure = torch.tensor(values)[None, None]
    assert torch.equal(select(measure, count), reference_selection(measure, count))
    assert torch.equal(select(measure.double(), count), reference_selection(measure, count))


def test_the_selection_finds_the_largest_measure() -> None:
    tensors = qkv(100, dtype=torch.float64)
    keys = sampled(tensors, "shared")
    measured = reference_measure(tensors["query"], tensors["key"], keys)
    chosen = prob_sparse_queries(tensors["query"], tensors["key"], keys=keys)
    assert torch.equal(chosen, reference_selection(measured, 25))


def test_a_query_of_nan_is_never_preferred_and_spoils_no_other_row() -> None:
    tensors = qkv(60)
    tensors["query"][:, :, 17] = math.nan
    chosen = prob_sparse_queries(tensors["query"], tensors["key"])
    assert not (chosen == 17).any()
    assert prob_sparse_attention(**tensors).isfinite().all()


def test_a_huge_gradient_of_a_selected_row_leaves_the_context_of_later_keys_exact() -> None:
    tensors = qkv(60)
    last = int(prob_sparse_queries(tensors["query"], tensors["key"])[0, 0, -1])
    grads = []
    for size in (1.0, 1e30):
        value = tensors["value"].clone().requires_grad_()
        out = prob_sparse_attention(tensors["query"], tensors["key"], value, causal=True)
        upstream = torch.ones_like(out)
        upstream[0, 0, last] = size
        out.backward(upstream)
        grads.append(value.grad[0, 0, last + 1 :])
    assert torch.equal(*grads)


def test_the_same_call_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        leaves = {name: t.clone().requires_grad_() for name, t in qkv(100).items()}
        out = prob_sparse_attention(**leaves, causal=True)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    leaf = torch.randn(1, 1, 9, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(prob_sparse_attention(leaf, leaf, leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def refused_code(
    *shapes: tuple[int, ...], dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3, **options: Any
) -> KernelErrorCode:
    tensors = [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    with pytest.raises(KernelError) as refused:
        prob_sparse_attention(*tensors, **options)
    assert ";" in str(refused.value)  # fact; remedy
    return refused.value.code


FINE = (2, 3, 9, 4)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        (((2, 9, 4), FINE, FINE), KernelErrorCode.SHAPE_MISMATCH),
        ((FINE, (2, 3, 9, 5), FINE), KernelErrorCode.SHAPE_MISMATCH),
        ((FINE, (1, 3, 9, 4), FINE), KernelErrorCode.SHAPE_MISMATCH),
        ((FINE, FINE, (2, 3, 8, 4)), KernelErrorCode.SHAPE_MISMATCH),
        (((2, 3, 0, 4), FINE, FINE), KernelErrorCode.EMPTY_DIMENSION),
        ((FINE, (2, 3, 0, 4), (2, 3, 0, 4)), KernelErrorCode.EMPTY_DIMENSION),
        (((2, 3, 9, 0),) * 3, KernelErrorCode.EMPTY_DIMENSION),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: tuple[tuple[int, ...], ...], code: KernelErrorCode) -> None:
    assert refused_code(*shapes) is code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"factor": 0}, KernelErrorCode.BAD_FACTOR),
        ({"factor": -3}, KernelErrorCode.BAD_FACTOR),
        ({"factor": 2.5}, KernelErrorCode.BAD_FACTOR),
        ({"sampling": "none"}, KernelErrorCode.BAD_OPTION),
        ({"measure": "exact"}, KernelErrorCode.BAD_OPTION),
        ({"seed": -1}, KernelErrorCode.BAD_SEED),
        ({"keys": torch.zeros(3)}, KernelErrorCode.BAD_KEYS),
        ({"keys": torch.zeros(8, 3, dtype=torch.int64)}, KernelErrorCode.BAD_KEYS),
        ({"keys": torch.zeros(0, dtype=torch.int64)}, KernelErrorCode.BAD_KEYS),
        ({"keys": torch.tensor([9]), "debug": True}, KernelErrorCode.BAD_KEYS),
        ({"keys": torch.zeros(3, dtype=torch.int64, device="meta")}, KernelErrorCode.MIXED_DEVICES),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], code: KernelErrorCode) -> None:
    assert refused_code(FINE, FINE, FINE, **options) is code


def test_a_causal_call_needs_as_many_queries_as_keys() -> None:
    assert refused_code(FINE, (2, 3, 8, 4), (2, 3, 8, 4), causal=True) is KernelErrorCode.SHAPE_MISMATCH


def test_dtypes_and_devices_that_differ_are_named() -> None:
    mixed = (torch.float32, torch.float64, torch.float32)
    assert refused_code(FINE, FINE, FINE, dtypes=mixed) is KernelErrorCode.MIXED_DTYPES
    whole = (torch.int32,) * 3
    assert refused_code(FINE, FINE, FINE, dtypes=whole) is KernelErrorCode.UNSUPPORTED_DTYPE
    with pytest.raises(KernelError) as refused:
        prob_sparse_attention(torch.zeros(FINE), torch.zeros(FINE, device="meta"), torch.zeros(FINE))
    assert refused.value.code is KernelErrorCode.MIXED_DEVICES


def test_values_are_checked_only_when_asked_for() -> None:
    tensors = qkv(9)
    tensors["value"][0, 0, 0, 0] = math.nan
    prob_sparse_attention(**tensors)
    with pytest.raises(KernelError, match="value holds NaN") as refused:
        prob_sparse_attention(**tensors, debug=True)
    assert refused.value.code is KernelErrorCode.NOT_FINITE


def test_the_route_and_its_reason_can_be_asked_for_and_are_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = qkv(9)
    route = prob_sparse_route(tensors["query"], tensors["key"])
    assert route.path == "torch"
    assert route.reason
    monkeypatch.setattr(routing, "_logged", set())
    with caplog.at_level(logging.INFO, logger="kernels"):
        prob_sparse_attention(**tensors)
        prob_sparse_attention(**tensors)
    assert caplog.messages == [f"prob_sparse_attention runs on the torch path: {route.reason}"]


def test_the_reason_names_the_limit_a_call_exceeds() -> None:
    wide, long = torch.empty(1, 1, 50, 300), torch.empty(1, 1, 20_000, 4)
    assert "head size 300" in prob_sparse_route(wide, wide).reason
    assert "length 20000" in prob_sparse_route(long, long).reason
    assert "150 selected queries" in prob_sparse_route(long, long, factor=15).reason
