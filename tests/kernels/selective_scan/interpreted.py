"""Selective scan kernels under TRITON_INTERPRET=1 (see test_interpreted_kernels.py)."""

import math

import pytest
import torch
from torch import Tensor

from kernels.agreement import compare
from kernels.selective_scan import scan, selective_scan, selective_scan_bidirectional, selective_scan_route
from kernels.selective_scan.reference import selective_scan_reference


@pytest.fixture(autouse=True)
def every_buffer_starts_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(math.nan))


@pytest.fixture(autouse=True, params=["16 steps at once", "step by step"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "step by step":
        monkeypatch.setattr(scan, "_FILL_A_GPU", 0)
    return request.param


def scan_inputs(
    length: int,
    *,
    states: int = 3,
    channels: int = 5,
    dtype: torch.dtype = torch.float32,
    directions: int | None = None,
    batch: int = 1,
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(length)
    lead = () if directions is None else (directions,)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=draw).to(dtype)

    return {
        # One tensor with channels innermost, as projections leave it, and one with time innermost, which is copied.
        "u": normal(batch, length, channels).transpose(-1, -2),
        "delta": normal(batch, channels, length),
        "A": -normal(channels, states).float().exp(),
        "B": normal(batch, length, states).transpose(-1, -2),
        "C": normal(batch, states, length),
        "D": normal(channels).float(),
        "z": normal(batch, channels, length),
        "delta_bias": normal(channels).float(),
    }


def require_agreement(tensors: dict[str, Tensor], *, softplus: bool = True) -> None:
    assert selective_scan_route(tensors["u"], tensors["A"]).path == "triton"
    compare(
        lambda **t: selective_scan(**t, delta_softplus=softplus, return_last_state=True),
        lambda **t: selective_scan_reference(**t, delta_softplus=softplus),
        tensors,
    ).require()


@pytest.mark.parametrize(("length", "batch"), [(1, 1), (6, 2), (17, 1)])
def test_outputs_last_state_and_gradients_equal_the_reference(length: int, batch: int) -> None:
    require_agreement(scan_inputs(length, batch=batch))


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (17, 16), (33, 5)])
def test_channels_and_states_need_not_fill_their_blocks(channels: int, states: int) -> None:
    require_agreement(scan_inputs(5, channels=channels, states=states))


@pytest.mark.parametrize("absent", ["D", "z", "delta_bias"])
def test_optional_inputs_may_be_absent(absent: str) -> None:
    tensors = scan_inputs(5)
    del tensors[absent]
    require_agreement(tensors)


@pytest.mark.parametrize(
    ("constant", "length", "batch"),
    # Gradients are summed over several blocks of steps, and over a batch.
    [(("B",), 18, 1), (("C",), 18, 1), (("B", "C"), 5, 2)],
)
def test_coefficients_need_not_depend_on_time(constant: tuple[str, ...], length: int, batch: int) -> None:
    tensors = scan_inputs(length, batch=batch)
    for name in constant:
        tensors[name] = torch.randn(5, 3, generator=torch.Generator().manual_seed(len(name)))
    require_agreement(tensors)


def test_without_softplus_delta_is_taken_as_it_is() -> None:
    tensors = scan_inputs(5)
    tensors["delta"] = tensors["delta"].abs()
    del tensors["delta_bias"]
    require_agreement(tensors, softplus=False)


def test_softplus_keeps_small_and_large_steps() -> None:
    tensors = scan_inputs(5)
    tensors["delta"] = torch.linspace(-30, 30, 50).view(1, 10, 5)[:, ::2].clone()
    require_agreement(tensors)


def test_half_precision_loses_no_more_than_its_rounding() -> None:
    require_agreement(scan_inputs(5, dtype=torch.float16))


def test_the_route_says_how_many_steps_are_scanned_at_once(form: str) -> None:
    tensors = scan_inputs(6)
    assert form in selective_scan_route(tensors["u"], tensors["A"]).reason


def flipped(name: str, tensor: Tensor) -> Tensor:
    return tensor.flip(-1) if name in {"u", "delta", "B", "C", "z"} else tensor


@pytest.mark.parametrize("length", [18])
def test_both_directions_in_one_launch_equal_two_calls_and_flips(length: int) -> None:
    def by_flips(**tensors: Tensor) -> tuple[Tensor, Tensor]:
        ahead = selective_scan_reference(**{name: t[0] for name, t in tensors.items()}, delta_softplus=True)
        back = selective_scan_reference(
            **{name: flipped(name, t[1]) for name, t in tensors.items()}, delta_softplus=True
        )
        return torch.stack((ahead[0], back[0].flip(-1))), torch.stack((ahead[1], back[1]))

    compare(
        lambda **t: selective_scan_bidirectional(**t, delta_softplus=True, return_last_state=True),
        by_flips,
        scan_inputs(length, directions=2),
    ).require()


def test_the_same_call_repeats_bit_by_bit() -> None:
    results = []
    for _ in range(2):
        leaves = {name: t.clone().requires_grad_() for name, t in scan_inputs(5).items()}
        out = selective_scan(**leaves, delta_softplus=True)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
