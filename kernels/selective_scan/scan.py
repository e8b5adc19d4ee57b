"""The selective scan of a state space model (Mamba, arXiv 2312.00752), called as `mamba_ssm` calls it.

Forward, a deterministic backward, and both directions of a sequence in one call. The state is float32 (float64 for
float64 inputs): bfloat16 loses it after a few hundred steps.
"""

from typing import Any, Final

import torch
from torch import Tensor

from kernels.checks import require_same_device, require_same_kind, require_shape
from kernels.errors import KernelError, KernelErrorCode
from kernels.layout import empty_channels_innermost
from kernels.precision import working_dtype
from kernels.routing import Route, route_for, taken
from kernels.selective_scan import torch as plain
from kernels.selective_scan.inputs import ScanInputs
from kernels.triton_support import refusal

# G directions, B batch, D channels, N states of a channel, L steps

_MAX_STATES: Final = 64
# Channels, over directions and batch, below which 16 steps are scanned at once: step by step a warp takes 32 of them,
# and a GPU has some 512 schedulers to keep busy. Derived by counting, not tuned on hardware.
_FILL_A_GPU: Final = 32 * 512
# Unrolled, ONNX Runtime takes batches faster, but each step adds nodes: at 128 steps one forecast is slower than by the
# prefix, and the export of each scan takes 11 s of a core instead of 2 (docs/kernels.md).
_UNROLLED_UP_TO: Final = 64


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t and return y_t = (C_t h_t + D u_t) silu(z_t), [B, D, L].

    u, delta, z [B, D, L]; A [D, N]; B, C [B, N, L], or [D, N] where they do not depend on time; D, delta_bias [D]. A, D
    and delta_bias may be float32 beside lower precision. `delta_softplus` applies softplus to delta + delta_bias.
    `return_last_state` also returns h_L [B, D, N] in float32 (float64 for float64), with gradients.

    Raises:
        KernelError: shapes, dtypes or devices do not fit.

    """
    _check({"B": None, "D": None, "L": None}, u, delta, A, B, C, D, z, delta_bias)
    stacked = (None if t is None else t[None] for t in (u, delta, A, B, C, D, z, delta_bias))
    out, last = _scan(ScanInputs(*stacked, delta_softplus))
    return (out[0], last[0]) if return_last_state else out[0]


def selective_scan_bidirectional(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan both ways at once: arguments and results of `selective_scan` with two directions stacked in front.

    u, delta, z [2, B, D, L]; A [2, D, N]; B, C [2, B, N, L] or [2, D, N]; D, delta_bias [2, D]. Index 0 runs from the
    first step to the last, index 1 from the last to the first; inputs and outputs of both are in natural order, so the
    caller flips nothing. Share a tensor between directions with `expand`.
    """
    _check({"directions": 2, "B": None, "D": None, "L": None}, u, delta, A, B, C, D, z, delta_bias)
    out, last = _scan(ScanInputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus))
    return (out, last) if return_last_state else out


def selective_scan_route(u: Tensor, A: Tensor) -> Route:
    """Return the implementation that a call with these tensors takes, and why."""
    route = route_for(u.device, _refused(u, A))
    if route.path == "triton":
        form = "16 steps at once, because the channels are too few to fill a GPU" if _by_tile(u) else "step by step"
        return Route(route.path, f"{route.reason}; {form}")
    return route


def _scan(given: ScanInputs) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_exporting():
        return plain.exportable(given, form="unrolled" if given.u.shape[-1] <= _UNROLLED_UP_TO else "prefix")
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given[:8])
    if torch.compiler.is_compiling():
        return _forward_op(*given, save)[:2]
    return _SelectiveScan.apply(*given, save) if save else _forward(*given, save)[:2]


class _SelectiveScan(torch.autograd.Function):
    """The eager path: less overhead per call than a registered op."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        out, last, *saved = _forward(*arguments)
        ctx.save_for_backward(*arguments[:8], *saved)
        ctx.softplus = arguments[8]
        return out, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        grads = _backward(grad, grad_last, *ctx.saved_tensors, ctx.softplus)
        return *_without_absent(grads, ctx.saved_tensors), None, None


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = ScanInputs(u, delta, A, B, C, D, z, bias, softplus)
    route = selective_scan_route(u, A)
    taken("selective_scan", route)
    if route.path == "triton":
        from kernels.selective_scan import triton as kernel

        out, last, states = kernel.forward(given, save=save, by_tile=_by_tile(u))
        return out, last, states, states.new_empty(0), states.new_empty(0)
    out, last, saved = plain.forward(given, save=save)
    return out, last, *saved


def _backward(
    grad: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    states: Tensor,
    delta_used: Tensor,
    ungated: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = ScanInputs(u, delta, A, B, C, D, z, bias, softplus)
    if _refused(u, A) is None:
        from kernels.selective_scan import triton as kernel

        grads = kernel.backward(grad, grad_last, given, states)
    else:
        grads = plain.backward(grad, grad_last, given, plain.Saved(states, delta_used, ungated))
    # A registered op cannot return None: an absent input's gradient is an empty tensor.
    return tuple(u.new_empty(0) if grad is None else grad for grad in grads)


# The same two functions as registered ops: torch.compile captures each as one node, on every device.
_forward_op = torch.library.custom_op("forecast_kernels::selective_scan", _forward, mutates_args=())
_backward_op = torch.library.custom_op("forecast_kernels::selective_scan_backward", _backward, mutates_args=())


@_forward_op.register_fake
def _(
    u: Tensor, _delta: Tensor, A: Tensor, _B: Tensor, _C: Tensor, _D: Tensor | None, z: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    G, batch, channels, L = u.shape
    N, save = A.shape[2], rest[-1]
    exact = working_dtype(u.dtype)
    blocks = -(-L // plain.KEPT_EVERY)
    keeps_rows = save and _refused(u, A) is not None  # the kernels recompute them
    return (
        empty_channels_innermost(u),
        u.new_empty((G, batch, channels, N), dtype=exact),
        u.new_empty((blocks, G, batch, N, channels) if save else 0, dtype=exact),
        u.new_empty((G, batch, L, channels) if keeps_rows else 0, dtype=exact),
        u.new_empty((G, batch, L, channels) if keeps_rows and z is not None else 0, dtype=exact),
    )


@_backward_op.register_fake
def _(_grad: Tensor, _last: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(
        rest[0].new_empty(0) if t is None else empty_channels_innermost(t) if t.dim() == 4 else t.new_empty(t.shape)
        for t in rest[:8]
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:8], *output[2:])
    ctx.softplus = inputs[8]


def _op_backward(ctx: Any, grad: Tensor, grad_last: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    grads = _backward_op(grad, grad_last, *ctx.saved_tensors, ctx.softplus)
    return *_without_absent(grads, ctx.saved_tensors), None, None


_forward_op.register_autograd(_op_backward, setup_context=_save_for_backward)


def _without_absent(grads: tuple[Tensor, ...], given: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else grad for grad, t in zip(grads, given, strict=False))


def _by_tile(u: Tensor) -> bool:
    return u.shape[:-1].numel() < _FILL_A_GPU


def _refused(u: Tensor, A: Tensor) -> str | None:
    if A.shape[-1] > _MAX_STATES:
        return f"{A.shape[-1]} states per channel exceed the kernels' limit of {_MAX_STATES}"
    return refusal(u.device, u.dtype)


def _check(
    dims: dict[str, int | None],
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
) -> None:
    require_shape("u", u, dims)
    sizes = dict(zip(dims, u.shape, strict=True))
    lead = {"directions": 2} if "directions" in dims else {}
    require_shape("delta", delta, sizes)
    require_shape("A", A, {**lead, "D": sizes["D"], "N": None})
    N = A.shape[-1]
    for name, t in (("B", B), ("C", C)):
        varying = t.dim() == u.dim()
        of_time = {"B": sizes["B"], "N": N, "L": sizes["L"]}
        require_shape(name, t, {**lead, **(of_time if varying else {"D": sizes["D"], "N": N})})
    if z is not None:
        require_shape("z", z, sizes)
    for name, t in (("D", D), ("delta_bias", bias)):
        if t is not None:
            require_shape(name, t, {**lead, "D": sizes["D"]})
    require_same_kind({"u": u, "delta": delta, "B": B, "C": C, "z": z})
    require_same_device({"u": u, "A": A, "D": D, "delta_bias": bias})
    for name, t in (("A", A), ("D", D), ("delta_bias", bias)):
        if t is not None and t.dtype not in (u.dtype, working_dtype(u.dtype)):
            raise KernelError(
                KernelErrorCode.MIXED_DTYPES,
                f"{name} is {t.dtype} beside u {u.dtype}",
                f"cast {name} to {working_dtype(u.dtype)}",
            )
