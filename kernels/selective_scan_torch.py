"""The selective scan in plain torch: fast on a CPU, the fallback elsewhere, and two forms that can be exported.

The state is [G, B, N, D] with channels innermost and updated in place; every 16th state is kept and the steps between
are recomputed in a hand-written backward, so training costs O(L) time and the states of a sixteenth of the steps.
"""

import math
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kernels.layout import empty_channels_innermost
from kernels.precision import working_dtype

# G directions (the second runs from the last step to the first), B batch, D channels, N states of a channel, L steps

KEPT_EVERY: Final = 16

ExportForm = Literal["unrolled", "prefix"]


class Saved(NamedTuple):
    """What backward needs beside the inputs; both empty when no gradient is wanted."""

    states: Tensor  # [ceil(L / 16), G, B, N, D], the state before steps 0, 16, 32, ...
    ungated: Tensor  # [L, G, B, D], C h before the skip and the gate; empty without a gate


class _Steps(NamedTuple):
    """Inputs in the order they are scanned, channels innermost, in the working dtype."""

    u: Tensor  # [L, G, B, D]
    raw: Tensor  # [L, G, B, D], delta before softplus
    delta: Tensor  # [L, G, B, D]
    A: Tensor  # [G, 1, N, D]
    B: Tensor  # [L, G, B, N], or [G, N, D] where it does not depend on time
    C: Tensor  # as B


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    *,
    softplus: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Saved]:
    """Output [G, B, D, L], last state [G, B, D, N], and what backward needs."""
    s = _steps(u, delta, A, B, C, bias, softplus=softplus)
    L, G, batch, channels = s.u.shape
    N = A.shape[2]
    h = s.u.new_zeros(G, batch, N, channels)
    decay = torch.empty_like(h)
    y = torch.empty_like(s.u)
    inflow = s.delta * s.u
    states = h.new_empty((math.ceil(L / KEPT_EVERY), *h.shape) if save else 0)
    for t in range(L):
        if save and t % KEPT_EVERY == 0:
            states[t // KEPT_EVERY].copy_(h)
        torch.mul(s.delta[t].unsqueeze(2), s.A, out=decay).exp_()
        h.mul_(decay).addcmul_(inflow[t].unsqueeze(2), _at(s.B, t))
        y[t].copy_(_read(s.C, t, h))
    out = empty_channels_innermost(u)
    gated = y if D is None else torch.addcmul(y, s.u, D.to(y.dtype)[:, None])
    if z is not None:
        gated = gated * functional.silu(_time_major(z, y.dtype))
    _natural(gated, out)
    kept = y if save and z is not None else y.new_empty(0)
    return out, h.transpose(2, 3).contiguous(), Saved(states, kept)


def backward(
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
    saved: Saved,
    *,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, bias, in one fixed order of sums: they repeat bit by bit."""
    s = _steps(u, delta, A, B, C, bias, softplus=softplus)
    L = s.u.shape[0]
    dy = _time_major(grad, s.u.dtype)
    skip = None if D is None else D.to(dy.dtype)[:, None]  # [G, 1, D]
    dz = None
    if z is not None:
        gate = _time_major(z, dy.dtype)
        gated = saved.ungated if skip is None else torch.addcmul(saved.ungated, s.u, skip)
        sigmoid = gate.sigmoid()
        dz = empty_channels_innermost(z)
        # d silu(z) / dz = sigmoid(z) (1 + z (1 - sigmoid(z)))
        _natural(dy * gated * sigmoid * (1 + gate * (1 - sigmoid)), dz)
        dy = dy * gate * sigmoid
    du = torch.zeros_like(s.u) if skip is None else dy * skip
    dD = None if D is None else (dy * s.u).sum((0, 2)).to(D.dtype)

    inflow = s.delta * s.u
    ddelta, dB, dC = torch.empty_like(s.u), torch.zeros_like(s.B), torch.zeros_like(s.C)
    g = grad_last.to(dy.dtype).transpose(2, 3).contiguous()  # [G, B, N, D], the gradient of the state
    dA, work = torch.zeros_like(g), torch.empty_like(g)
    h = g.new_empty((KEPT_EVERY + 1, *g.shape))
    decay = g.new_empty((KEPT_EVERY, *g.shape))
    for block in reversed(range(saved.states.shape[0])):
        first, last = block * KEPT_EVERY, min((block + 1) * KEPT_EVERY, L)
        h[0].copy_(saved.states[block])
        for t in range(first, last):
            i = t - first
            torch.mul(s.delta[t].unsqueeze(2), s.A, out=decay[i]).exp_()
            torch.mul(h[i], decay[i], out=h[i + 1]).addcmul_(inflow[t].unsqueeze(2), _at(s.B, t))
        for t in reversed(range(first, last)):
            i = t - first
            g.addcmul_(dy[t].unsqueeze(2), _at(s.C, t))
            _accumulate(dC, t, h[i + 1], dy[t])
            _accumulate(dB, t, g, inflow[t])
            into_inflow = _read(s.B, t, g)  # [G, B, D]
            g.mul_(decay[i])
            torch.mul(g, h[i], out=work)
            dA.addcmul_(work, s.delta[t].unsqueeze(2))
            torch.addcmul(work.mul_(s.A).sum(2), into_inflow, s.u[t], out=ddelta[t])
            du[t].addcmul_(into_inflow, s.delta[t])
    if softplus:
        ddelta.mul_(s.raw.sigmoid())
    grads = [empty_channels_innermost(t) for t in (u, delta)]
    _natural(du, grads[0])
    _natural(ddelta, grads[1])
    dbias = None if bias is None else ddelta.sum((0, 2)).to(bias.dtype)
    dA_natural = dA.sum(1).transpose(1, 2).to(A.dtype).contiguous()
    return *grads, dA_natural, _like_input(dB, B), _like_input(dC, C), dD, dz, dbias


def exportable(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    *,
    softplus: bool,
    form: ExportForm,
) -> tuple[Tensor, Tensor]:
    """Output and last state by operations torch.export and ONNX can hold: unrolled steps, or a log-depth prefix."""
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


def _steps(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, bias: Tensor | None, *, softplus: bool) -> _Steps:
    exact = working_dtype(u.dtype)
    raw = _time_major(delta, exact)
    if bias is not None:
        raw = raw + bias.to(exact)[:, None]
    drive, read = (_time_major(t, exact) if t.dim() == 4 else t.to(exact).transpose(1, 2).contiguous() for t in (B, C))
    return _Steps(
        _time_major(u, exact),
        raw,
        functional.softplus(raw) if softplus else raw,
        A.to(exact).transpose(1, 2)[:, None].contiguous(),
        drive,
        read,
    )


def _time_major(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy [G, B, X, L] to [L, G, B, X] in scanning order: the reversal of the second direction costs nothing extra."""
    moved = t.permute(3, 0, 1, 2)
    out = torch.empty(moved.shape, dtype=dtype, device=t.device)
    out[:, 0].copy_(moved[:, 0])
    if t.shape[0] == 2:
        out[:, 1].copy_(moved[:, 1].flip(0))
    return out


def _natural(t: Tensor, out: Tensor) -> None:
    """Copy [L, G, B, X] in scanning order into `out` [G, B, X, L]."""
    out[0].copy_(t[:, 0].permute(1, 2, 0))
    if out.shape[0] == 2:
        out[1].copy_(t[:, 1].flip(0).permute(1, 2, 0))


def _flipped(t: Tensor) -> Tensor:
    return t if t.shape[0] == 1 else torch.cat((t[:1], t[1:].flip(-1)))


def _time_last(t: Tensor) -> Tensor:
    if t.dim() == 4:
        return _flipped(t).transpose(2, 3)[..., None]  # [G, B, L, N, 1]
    return t.transpose(1, 2)[:, None, None]  # [G, 1, 1, N, D]


def _at(coefficient: Tensor, t: int) -> Tensor:
    """Coefficients of step t against the state [G, B, N, D]; three dimensions mean they do not depend on time."""
    return coefficient.unsqueeze(1) if coefficient.dim() == 3 else coefficient[t].unsqueeze(3)


def _read(coefficient: Tensor, t: int, h: Tensor) -> Tensor:
    """Sum coefficient * h over the states: [G, B, D]."""
    if coefficient.dim() == 3:
        return (h * coefficient.unsqueeze(1)).sum(2)
    G, batch, _, channels = h.shape
    return torch.bmm(coefficient[t].flatten(0, 1).unsqueeze(1), h.flatten(0, 1)).view(G, batch, channels)


def _accumulate(into: Tensor, t: int, h: Tensor, row: Tensor) -> None:
    """Add step t's part of a coefficient's gradient: h [G, B, N, D] against row [G, B, D]."""
    if into.dim() == 3:
        into.add_((h * row.unsqueeze(2)).sum(1))
    else:
        into[t].copy_(torch.bmm(h.flatten(0, 1), row.flatten(0, 1).unsqueeze(2)).view(into[t].shape))


def _like_input(found: Tensor, given: Tensor) -> Tensor:
    if found.dim() == 3:
        return found.transpose(1, 2).to(given.dtype).contiguous()
    out = empty_channels_innermost(given)
    _natural(found, out)
    return out
