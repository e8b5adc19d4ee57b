"""The selective scan in plain torch: fast on a CPU, the fallback elsewhere, and two forms that can be exported.

As many batch rows of one direction as a cache holds are scanned together, in blocks of 16 steps. A few passes prepare a
block's decays and inflows, so that a step of the recurrence is one operation in place. The second direction walks the
same blocks from the end, so no tensor is flipped. For training, the state before each block is kept; a hand-written
backward recomputes the others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count, repeat
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernels.layout import channels_innermost, empty_channels_innermost
from kernels.precision import working_dtype
from kernels.selective_scan.inputs import ScanInputs

# G directions (the second runs from the last step to the first), B batch, D channels, N states of a channel, L steps,
# T steps of a block

KEPT_EVERY: Final = 16
# Rows are scanned together while their block has at most this many states: 1 MB of float32.
_IN_CACHE: Final = 1 << 18
_LOG2_E: Final = math.log2(math.e)

ExportForm = Literal["unrolled", "prefix"]


class Saved(NamedTuple):
    """The tensors that backward needs beside the inputs; all are empty if no gradient is needed."""

    states: Tensor  # [ceil(L / 16), G, B, N, D], the state before each block
    delta: Tensor  # [G, B, L, D], after bias and softplus
    ungated: Tensor  # [G, B, L, D], C h + D u; empty without a gate


class _Part(NamedTuple):
    """Rows of one direction, channels innermost, in the working dtype."""

    at: tuple[int, slice]  # the direction and the rows
    u: Tensor  # [B, L, D]
    raw: Tensor  # [B, L, D], delta after the bias
    A: Tensor  # [N, D]
    rate: Tensor  # [N, D], log2(e) A: exp2 takes half the time of exp
    B: Tensor  # [B, L, N], or [N, D] where it does not depend on time
    C: Tensor  # as B
    D: Tensor | None  # [D]
    z: Tensor | None  # [B, L, D]


def forward(given: ScanInputs, *, save: bool) -> tuple[Tensor, Tensor, Saved]:
    """Return the output [G, B, D, L], the last state [G, B, D, N] and the tensors that backward needs."""
    G, batch, channels, L = given.u.shape
    state = (G, batch, given.A.shape[2], channels)
    last = given.u.new_empty(state, dtype=working_dtype(given.u.dtype))
    delta, y = (last.new_empty((G, batch, L, channels)) for _ in range(2))
    states = last.new_empty((math.ceil(L / KEPT_EVERY), *state) if save else 0)
    out = empty_channels_innermost(given.u)
    workspace = _workspace(last, given, tensors=2)
    for part in _parts(given):
        h = last[part.at].zero_()
        sizes = functional.softplus(part.raw) if given.softplus else part.raw
        delta[part.at] = sizes
        for k, u_t, delta_t, B_t, C_t, y_t in _blocks(part, part.u, sizes, part.B, part.C, y[part.at]):
            (decay, after), (decays, steps) = workspace(*u_t.shape[:2], part.at[0])
            if save:
                states[k][part.at] = h
            _prepare(decay, after, part, delta_t, delta_t * u_t, B_t)
            h.copy_(_run(decays, steps, h))
            y_t.copy_(_read(C_t, after))
        if part.D is not None:
            y[part.at].addcmul_(part.u, part.D)
        gate = 1.0 if part.z is None else functional.silu(part.z)
        torch.mul(y[part.at], gate, out=out[part.at].mT)
    none = last.new_empty(0)
    saved = Saved(states, *((delta, none if given.z is None else y) if save else (none, none)))
    return out, last.mT.contiguous(), saved


def backward(grad: Tensor, grad_last: Tensor, given: ScanInputs, saved: Saved) -> tuple[Tensor | None, ...]:
    """Return the gradients of u, delta, A, B, C, D, z, bias. The order of sums is fixed, so they repeat bit by bit."""
    found = [_gradient_buffer(t) for t in given[:8]]
    du, ddelta, dA, dB, dC, dD, dz, dbias = found
    workspace = _workspace(saved.states, given, tensors=3)
    for part in _parts(given):
        at, (g, _) = part.at, part.at
        dy = du[at]  # each block of it becomes du once it is used up
        dy.copy_(grad[at].mT)
        if part.z is not None:
            torch.mul(dy, saved.ungated[at], out=dz[at])
            torch.ops.aten.silu_backward.grad_input(dz[at], part.z, grad_input=dz[at])
            dy.mul_(functional.silu(part.z))
        if part.D is not None:
            dD[g].add_((dy * part.u).sum((0, 1)))
        later = grad_last[at].mT.to(dy.dtype, copy=True)  # [B, N, D], the gradient of the state from later steps
        timed = (part.u, saved.delta[at], part.B, part.C, dy, ddelta[at], _of(dB, at), _of(dC, at))
        for k, u_t, delta_t, B_t, C_t, dy_t, ddelta_t, dB_t, dC_t in reversed(_blocks(part, *timed)):
            (decay, after, slope), (decays, steps, slopes) = workspace(*u_t.shape[:2], g)
            entered, inflow = saved.states[k][at], delta_t * u_t
            _prepare(decay, after, part, delta_t, inflow, B_t)
            _run(decays, steps, entered)
            _accumulate(dC_t, after, dy_t)
            torch.mul(dy_t.unsqueeze(2), _over_states(C_t), out=slope)
            through = later
            for factor, step in zip(decays[::-1], slopes[::-1], strict=True):
                through = factor.mul_(step.add_(through))
            later.copy_(through)
            # Now slope is the gradient of the state after each step, decay that gradient times a.
            _accumulate(dB_t, slope, inflow)
            into_inflow = _read(B_t, slope)  # [B, T, D]
            (dy_t.zero_() if part.D is None else dy_t.mul_(part.D)).addcmul_(into_inflow, delta_t)
            decays[0].mul_(entered)
            (decay[:, :-1] if g else decay[:, 1:]).mul_(after[:, 1:] if g else after[:, :-1])
            torch.addcmul(torch.mul(decay, part.A, out=slope).sum(2), into_inflow, u_t, out=ddelta_t)
            dA[g].add_(decay.mul_(delta_t.unsqueeze(2)).sum((0, 1)))
        if given.softplus:
            torch.ops.aten.softplus_backward.grad_input(ddelta[at], part.raw, 1.0, 20.0, grad_input=ddelta[at])
        if dbias is not None:
            dbias[g].add_(ddelta[at].sum((0, 1)))
    return tuple(None if t is None else _like_input(t, like) for t, like in zip(found, given, strict=False))


def exportable(given: ScanInputs, *, form: ExportForm) -> tuple[Tensor, Tensor]:
    """Return output and last state by operations that torch.export and ONNX support: unrolled or a log-depth prefix."""
    u, delta, A, B, C, D, z, bias, softplus = given
    exact = working_dtype(u.dtype)
    raw = delta.to(exact) if bias is None else delta.to(exact) + bias.to(exact)[:, None, :, None]
    step = functional.softplus(raw) if softplus else raw  # [G, B, D, L]
    step, inputs = (
        _flipped(t).permute(0, 1, 3, 2)[:, :, :, None] for t in (step, step * u.to(exact))
    )  # [G, B, L, 1, D]
    drive, read = (_time_last(t.to(exact)) for t in (B, C))  # [G, B, L, N, 1], or [G, 1, 1, N, D]
    decay = (step * A.to(exact).transpose(1, 2)[:, None, None]).exp()  # [G, B, L, N, D]
    h = _unrolled(decay, inputs * drive) if form == "unrolled" else _prefix(decay, inputs * drive)
    y = _flipped((h * read).sum(3).transpose(2, 3))  # [G, B, D, L]
    if D is not None:
        y = y + D.to(exact)[:, None, :, None] * u.to(exact)
    if z is not None:
        y = y * functional.silu(z.to(exact))
    return y.to(u.dtype), h[:, :, -1].transpose(2, 3)


def _unrolled(decay: Tensor, inflow: Tensor) -> Tensor:
    h = torch.zeros_like(inflow[:, :, 0])
    states = []
    for a, x in zip(decay.unbind(2), inflow.unbind(2), strict=True):
        h = a * h + x
        states.append(h)
    return torch.stack(states, 2)


def _prefix(decay: Tensor, inflow: Tensor) -> Tensor:
    # Hillis and Steele: after the round of distance d a step has seen the 2d steps that end with it. Only products of
    # decays below one occur, no quotients, so nothing overflows.
    L, distance = decay.shape[2], 1
    while distance < L:
        later, earlier = slice(distance, None), slice(None, L - distance)
        inflow, decay = (
            torch.cat((inflow[:, :, :distance], inflow[:, :, later] + decay[:, :, later] * inflow[:, :, earlier]), 2),
            torch.cat((decay[:, :, :distance], decay[:, :, later] * decay[:, :, earlier]), 2),
        )
        distance *= 2
    return inflow


def _parts(given: ScanInputs) -> Iterator[_Part]:
    exact = working_dtype(given.u.dtype)
    u, delta, z = (None if t is None else channels_innermost(t).mT for t in (given.u, given.delta, given.z))
    size = _rows_together(given)
    for g in range(len(u)):
        D, bias = (None if t is None else t[g].to(exact) for t in (given.D, given.bias))
        A = given.A[g].mT.to(exact).contiguous()
        for first in range(0, u.shape[1], size):
            at = (g, slice(first, first + size))
            raw = delta[at].to(exact)
            yield _Part(
                at,
                u[at].to(exact),
                raw if bias is None else raw + bias,
                A,
                A * _LOG2_E,
                *(_of(t, at).mT.to(exact).contiguous() for t in (given.B, given.C)),
                D,
                None if z is None else z[at].to(exact),
            )


def _rows_together(given: ScanInputs) -> int:
    _, batch, channels, L = given.u.shape
    parts = math.ceil(batch * given.A.shape[2] * channels * min(L, KEPT_EVERY) / _IN_CACHE)
    return math.ceil(batch / parts)


def _of(coefficient: Tensor, at: tuple[int, slice]) -> Tensor:
    """Select the rows of a part; a coefficient that does not depend on time is the same for all rows."""
    return coefficient[at] if coefficient.dim() == 4 else coefficient[at[0]]


def _blocks(part: _Part, *tensors: Tensor) -> list[tuple[Any, ...]]:
    """Cut tensors [B, L, X] into numbered blocks of steps, in reading order; repeat tensors without a time axis."""
    blocks = list(zip(count(), *(t.split(KEPT_EVERY, 1) if t.dim() == 3 else repeat(t) for t in tensors), strict=False))
    return blocks[::-1] if part.at[0] else blocks


def _workspace(like: Tensor, given: ScanInputs, *, tensors: int) -> Callable[[int, int, int], Any]:
    """Allocate tensors [B, T, N, D] for a block; calling the result with B, T and direction returns views per step."""
    _, _, channels, L = given.u.shape
    state = (given.A.shape[2], channels)
    memory = like.new_empty((tensors, _rows_together(given) * min(L, KEPT_EVERY) * math.prod(state)))

    # Cached: cutting a block into steps takes as long as a step.
    @cache
    def cut(batch: int, steps: int, g: int) -> tuple[list[Tensor], list[Sequence[Tensor]]]:
        whole = [t[: batch * steps * math.prod(state)].view(batch, steps, *state) for t in memory]
        return whole, [t.unbind(1)[:: -1 if g else 1] for t in whole]

    return cut


def _prepare(decay: Tensor, after: Tensor, part: _Part, delta: Tensor, inflow: Tensor, B: Tensor) -> None:
    """Fill `decay` with the factors of a block's steps and `after` with their additions to the state."""
    torch.mul(delta.unsqueeze(2), part.rate, out=decay).exp2_()
    torch.mul(inflow.unsqueeze(2), _over_states(B), out=after)


def _run(decays: Sequence[Tensor], steps: Sequence[Tensor], h: Tensor) -> Tensor:
    """Turn each step's addition into the state after the step, in place; return the last state."""
    for factor, step in zip(decays, steps, strict=True):
        h = step.addcmul_(factor, h)
    return h


def _over_states(coefficient: Tensor) -> Tensor:
    """Return a coefficient in a shape that multiplies states [B, T, N, D]."""
    return coefficient if coefficient.dim() == 2 else coefficient.unsqueeze(3)


def _read(coefficient: Tensor, h: Tensor) -> Tensor:
    """Sum coefficient * h over the states: [B, T, D]."""
    if coefficient.dim() == 2:
        return (h * coefficient).sum(2)
    batch, steps, N, channels = h.shape
    return torch.bmm(coefficient.reshape(-1, 1, N), h.view(-1, N, channels)).view(batch, steps, channels)


def _accumulate(into: Tensor, h: Tensor, row: Tensor) -> None:
    """Add the block's part of a coefficient's gradient: h [B, T, N, D] against row [B, T, D]."""
    if into.dim() == 2:
        into.add_((h * row.unsqueeze(2)).sum((0, 1)))
    else:
        N, channels = h.shape[2:]
        # A row times the transposed states: the other order, a column, is four times slower on a CPU.
        found = torch.bmm(row.reshape(-1, 1, channels), h.view(-1, N, channels).mT)
        into.copy_(found.view(into.shape))


def _gradient_buffer(t: Tensor | None) -> Tensor | None:
    """Allocate a gradient in the working dtype, channels or states innermost; zeros where parts are summed."""
    if t is None:
        return None
    new = t.new_empty if t.dim() == 4 else t.new_zeros
    return new(t.shape if t.dim() == 2 else t.mT.shape, dtype=working_dtype(t.dtype))


def _like_input(found: Tensor, like: Tensor) -> Tensor:
    found = found.to(like.dtype)
    return found if like.dim() == 2 else found.mT if like.dim() == 4 else found.mT.contiguous()


def _flipped(t: Tensor) -> Tensor:
    return t if t.shape[0] == 1 else torch.cat((t[:1], t[1:].flip(-1)))


def _time_last(t: Tensor) -> Tensor:
    if t.dim() == 4:
        return _flipped(t).transpose(2, 3)[..., None]  # [G, B, L, N, 1]
    return t.transpose(1, 2)[:, None, None]  # [G, 1, 1, N, D]
