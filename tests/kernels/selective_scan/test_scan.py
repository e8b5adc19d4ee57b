import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from kernels import KernelError, KernelErrorCode
from kernels.agreement import Agreement, compare, relative_error
from kernels.selective_scan import scan, selective_scan, selective_scan_bidirectional, selective_scan_route
from kernels.selective_scan.inputs import ScanInputs
from kernels.selective_scan.reference import selective_scan_reference

LENGTHS = (1, 7, 63, 96, 100, 257)


def scan_inputs(
    length: int,
    *,
    states: int = 3,
    channels: int = 5,
    dtype: torch.dtype = torch.float32,
    constant: bool = False,
    directions: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    lead = () if directions is None else (directions,)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=draw, dtype=torch.float64).to(dtype)

    def by_time(*shape: int) -> Tensor:
        # Projections leave time before channels in memory: [B, L, X] seen as [B, X, L].
        return normal(shape[0], shape[2], shape[1]).transpose(-1, -2)

    B, C = (normal(channels, states) if constant else by_time(2, states, length) for _ in range(2))
    return {
        "u": by_time(2, channels, length),
        "delta": by_time(2, channels, length),
        "A": -normal(channels, states).exp(),
        "B": B,
        "C": C,
        "D": normal(channels),
        "z": by_time(2, channels, length),
        "delta_bias": normal(channels),
    }


def both_directions_by_flips(**tensors: Tensor) -> tuple[Tensor, Tensor]:
    timed = {"u", "delta", "z"} | {name for name in ("B", "C") if tensors[name].dim() == 4}
    turned = {name: t[1].flip(-1) if name in timed else t[1] for name, t in tensors.items()}
    ahead, last_ahead = selective_scan_reference(**{name: t[0] for name, t in tensors.items()}, delta_softplus=True)
    back, last_back = selective_scan_reference(**turned, delta_softplus=True)
    return torch.stack((ahead, back.flip(-1))), torch.stack((last_ahead, last_back))


def compare_with_reference(tensors: dict[str, Tensor], *, softplus: bool = True, **options: Any) -> Agreement:
    return compare(
        lambda **t: selective_scan(**t, delta_softplus=softplus, return_last_state=True),
        lambda **t: selective_scan_reference(**t, delta_softplus=softplus),
        tensors,
        **options,
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_last_state_and_gradients_equal_the_reference(length: int) -> None:
    compare_with_reference(scan_inputs(length)).require()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_in_float64_the_agreement_is_exact_to_rounding(length: int, constant: bool) -> None:
    tensors = scan_inputs(length, dtype=torch.float64, constant=constant)
    compare_with_reference(tensors, tolerance=1e-13).require()


@pytest.mark.parametrize("directions", [None, 2])
def test_rows_scanned_apart_give_what_they_give_together(
    directions: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: t.requires_grad_() for name, t in scan_inputs(40, directions=directions).items()}
    op = selective_scan if directions is None else selective_scan_bidirectional
    results = []
    for numbers_in_cache in (1 << 18, 1):
        monkeypatch.setattr(scan.plain, "_IN_CACHE", numbers_in_cache)
        out = op(**tensors, delta_softplus=True)
        results.append((out, *torch.autograd.grad(out.square().sum(), list(tensors.values()))))
    for together, apart in zip(*results, strict=True):
        assert relative_error(apart, together) < 1e-6


@pytest.mark.parametrize("constant", ["B", "C"])
def test_one_coefficient_may_depend_on_time_and_the_other_not(constant: str) -> None:
    compare_with_reference(scan_inputs(20) | {constant: scan_inputs(20, constant=True)[constant]}).require()


@pytest.mark.parametrize("absent", ["D", "z", "delta_bias"])
def test_optional_inputs_may_be_absent(absent: str) -> None:
    tensors = scan_inputs(20)
    del tensors[absent]
    compare_with_reference(tensors).require()


def test_without_softplus_delta_is_taken_as_it_is() -> None:
    tensors = scan_inputs(20)
    tensors["delta"] = tensors["delta"].abs()
    del tensors["delta_bias"]
    compare_with_reference(tensors, softplus=False).require()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("length", [1, 17, 63])
def test_both_directions_in_one_call_equal_two_calls_and_flips(length: int, constant: bool) -> None:
    compare(
        lambda **t: selective_scan_bidirectional(**t, delta_softplus=True, return_last_state=True),
        both_directions_by_flips,
        scan_inputs(length, directions=2, constant=constant),
    ).require()


def test_directions_may_share_a_tensor_without_copying_it() -> None:
    tensors = scan_inputs(20, directions=2)
    tensors["u"] = tensors["u"][:1].expand(2, -1, -1, -1)
    compare(
        lambda **t: selective_scan_bidirectional(**t, delta_softplus=True, return_last_state=True),
        both_directions_by_flips,
        tensors,
    ).require()


def test_backward_is_the_derivative_of_forward() -> None:
    leaves = [
        t.contiguous().requires_grad_() for t in scan_inputs(5, channels=2, states=2, dtype=torch.float64).values()
    ]
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, True, True), leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_lose_no_more_than_their_rounding(dtype: torch.dtype) -> None:
    tensors = scan_inputs(63, dtype=dtype)
    for name in ("A", "D", "delta_bias"):
        tensors[name] = tensors[name].float()
    compare_with_reference(tensors).require()
    out, last = selective_scan(**tensors, return_last_state=True)
    assert (out.dtype, last.dtype) == (dtype, torch.float32)


def test_a_strong_decay_over_a_long_sequence_neither_overflows_nor_vanishes() -> None:
    # Forms that divide by cumulative products fail here.
    tensors = scan_inputs(400, dtype=torch.float64)
    tensors["A"] = tensors["A"] * 50
    compare_with_reference(tensors, tolerance=1e-12).require()


def test_the_same_call_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        leaves = {name: t.clone().requires_grad_() for name, t in scan_inputs(63).items()}
        out = selective_scan(**leaves, delta_softplus=True)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_gradients_no_states_are_kept() -> None:
    given = [None if t is None else t[None] for t in scan_inputs(40).values()]
    assert all(kept.numel() == 0 for kept in scan._forward(*given, True, False)[2:])


def test_nan_reaches_the_outputs_after_it_and_no_other_channel() -> None:
    tensors = scan_inputs(30)
    tensors["u"][0, 2, 11] = float("nan")
    out = selective_scan(**tensors, delta_softplus=True)
    assert out[0, 2, 11:].isnan().all()
    out[0, 2, 11:] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("replaced", "code"),
    [
        ({"u": torch.zeros(2, 5)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"u": torch.zeros(2, 5, 0)}, KernelErrorCode.EMPTY_DIMENSION),
        ({"u": torch.zeros(2, 0, 9)}, KernelErrorCode.EMPTY_DIMENSION),
        ({"delta": torch.zeros(2, 5, 8)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"A": torch.zeros(4, 3)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"A": torch.zeros(5, 0)}, KernelErrorCode.EMPTY_DIMENSION),
        ({"B": torch.zeros(2, 4, 9)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"C": torch.zeros(3, 5)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"z": torch.zeros(2, 5, 8)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"D": torch.zeros(4)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"delta_bias": torch.zeros(1, 5)}, KernelErrorCode.SHAPE_MISMATCH),
        ({"B": torch.zeros(2, 3, 9, dtype=torch.float64)}, KernelErrorCode.MIXED_DTYPES),
        ({"A": torch.zeros(5, 3, dtype=torch.float64)}, KernelErrorCode.MIXED_DTYPES),
        ({"A": torch.zeros(5, 3, device="meta")}, KernelErrorCode.MIXED_DEVICES),
        ({"z": torch.zeros(2, 5, 9, device="meta")}, KernelErrorCode.MIXED_DEVICES),
    ],
)
def test_inputs_that_do_not_agree_are_named(replaced: dict[str, Tensor], code: KernelErrorCode) -> None:
    with pytest.raises(KernelError, match=next(iter(replaced))) as refused:
        selective_scan(**scan_inputs(9) | replaced)
    assert refused.value.code is code


def test_a_bidirectional_call_needs_two_directions() -> None:
    with pytest.raises(KernelError, match="directions=3"):
        selective_scan_bidirectional(**scan_inputs(9, directions=3))


def test_the_route_says_what_stands_against_a_kernel() -> None:
    t = scan_inputs(9, states=65)
    assert "65 states" in selective_scan_route(t["u"], t["A"]).reason


class Scan(torch.nn.Module):
    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor) -> Tensor:
        A = -torch.arange(1.0, 4.0).expand(5, 3)
        return selective_scan(u, delta, A, B, C, torch.ones(5), z, torch.ones(5), True)


class ScanBothWays(torch.nn.Module):
    def forward(self, *timed: Tensor) -> Tensor:
        u, delta, B, C, z = (torch.stack((t, t * 0.5)) for t in timed)
        A = -torch.arange(1.0, 4.0).expand(2, 5, 3)
        return selective_scan_bidirectional(u, delta, A, B, C, None, z, None, True).sum(0)


def timed(length: int, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, size, length, generator=draw) for size in (5, 5, 3, 3, 5))


@pytest.mark.parametrize("gated", [False, True])
def test_the_registered_op_keeps_torchs_contract(gated: bool) -> None:
    tensors = [t[None].contiguous().requires_grad_() for t in scan_inputs(18, channels=2, states=2).values()]
    if not gated:
        tensors[5] = tensors[6] = tensors[7] = None
    torch.library.opcheck(torch.ops.forecast_kernels.selective_scan.default, (*tensors, True, True))


def test_a_compiled_call_has_no_graph_break_and_the_same_results() -> None:
    compiled = torch.compile(Scan(), fullgraph=True, backend="aot_eager")
    found, expected = ([t.requires_grad_() for t in timed(20, 2)] for _ in range(2))
    for module, leaves in ((compiled, found), (Scan(), expected)):
        module(*leaves).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", ["unrolled", "prefix"])
@pytest.mark.parametrize("constant", [False, True])
def test_both_export_forms_equal_the_reference_with_gradients(form: str, constant: bool) -> None:
    def op(**tensors: Tensor) -> tuple[Tensor, Tensor]:
        return scan.plain.exportable(ScanInputs(*tensors.values(), softplus=True), form=form)

    tensors = scan_inputs(37, directions=2, constant=constant, dtype=torch.float64)
    compare(op, both_directions_by_flips, tensors, tolerance=1e-12).require()


class BothForms(torch.nn.Module):
    """Both export forms in one graph, as exporting twice takes twice as long."""

    def forward(self, *timed: Tensor) -> tuple[Tensor, Tensor]:
        unrolled = Scan()(*(t[..., :SHORT] for t in timed))
        return unrolled, ScanBothWays()(*timed)


SHORT, LONG = 7, 21


def test_onnx_runtime_gives_the_same_output_at_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_UNROLLED_UP_TO", SHORT)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) * 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, not ours to mend
        program = torch.export.export(BothForms(), timed(LONG, 2), dynamic_shapes=(shapes,))
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
    assert not [node for node in program.graph.nodes if "forecast_kernels" in str(node.target)]
    path = tmp_path / "scan.onnx"
    onnx_program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 3):
        tensors = timed(LONG, size, seed=size)
        feeds = {given.name: t.numpy() for given, t in zip(session.get_inputs(), tensors, strict=True)}
        expected = BothForms()(*tensors)
        for found, torch_found, right in zip(
            session.run(None, feeds), program.module()(*tensors), expected, strict=True
        ):
            np.testing.assert_allclose(found, right.numpy(), rtol=1e-4, atol=1e-5)
            assert relative_error(torch_found, right) < 1e-6
