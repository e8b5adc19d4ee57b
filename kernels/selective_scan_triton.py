"""The selective scan on a GPU: launches of the kernels in `selective_scan_kernels`.

Both directions run in one launch. Sums over batch and channels are left as partial sums by the kernel and added by
torch in a fixed order: gradients repeat bit by bit.
"""

from typing import Final

import torch
from torch import Tensor

from kernels import selective_scan_kernels as kernel
from kernels.layout import channels_innermost, empty_channels_innermost
from kernels.selective_scan_torch import KEPT_EVERY
from kernels.triton_support import FUSED, load_triton, on_device_of

triton = load_triton().triton

# G directions, B batch, D channels, N states of a channel, L steps

STEPS_AT_ONCE: Final = 4  # divides KEPT_EVERY
CHANNEL_BLOCK: Final = 32
BACKWARD_CHANNEL_BLOCK: Final = 16  # four recomputed states of 32 channels would not fit in registers


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Output [G, B, D, L], last state [G, B, D, N], and states [ceil(L / 16), G, B, N, D] when `save`."""
    G, batch, channels, L = u.shape
    N = A.shape[2]
    timed = [None if t is None else channels_innermost(t) for t in (u, delta, B, C, z)]
    out = empty_channels_innermost(u)
    last = _floats(u, G, batch, N, channels)
    states = _floats(u, *((triton.cdiv(L, KEPT_EVERY), G, batch, N, channels) if save else (0,)))
    with on_device_of(u):
        kernel.scan_forward[triton.cdiv(channels, CHANNEL_BLOCK) * batch, G](
            *(timed[0], timed[1], A.transpose(1, 2).contiguous(), timed[2], timed[3]),
            *(_contiguous(D, u), u if z is None else timed[4], _contiguous(bias, u), out, last, states),
            *(stride for t in timed for stride in _strides(t)),
            *(batch, channels, L, 0),
            N=N,
            BN=triton.next_power_of_2(N),
            BD=CHANNEL_BLOCK,
            T=STEPS_AT_ONCE,
            KEPT=KEPT_EVERY,
            HAS_SKIP=D is not None,
            HAS_Z=z is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            SAVE=save,
            num_warps=1,
            enable_fp_fusion=FUSED,
        )
    return out, last.transpose(2, 3).contiguous(), states


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
    states: Tensor,
    *,
    softplus: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, bias."""
    G, batch, channels, L = u.shape
    N = A.shape[2]
    timed = [None if t is None else channels_innermost(t) for t in (u, delta, B, C, z, grad)]
    du, ddelta, dz = (None if t is None else empty_channels_innermost(t) for t in (u, delta, z))
    dA = _floats(u, G, batch, N, channels)
    dB, dC = (_floats(u, triton.cdiv(channels, BACKWARD_CHANNEL_BLOCK), G, batch, L, N) for _ in range(2))
    dD, dbias = (None if t is None else _floats(u, G, batch, channels) for t in (D, bias))
    with on_device_of(u):
        kernel.scan_backward[triton.cdiv(channels, BACKWARD_CHANNEL_BLOCK) * batch, G](
            *(timed[0], timed[1], A.transpose(1, 2).contiguous(), timed[2], timed[3]),
            *(_contiguous(D, u), u if z is None else timed[4], _contiguous(bias, u)),
            *(timed[5], grad_last.transpose(2, 3).contiguous(), states, du, ddelta, dA, dB, dC),
            *(u if t is None else t for t in (dD, dz, dbias)),  # a placeholder: nothing is written through it
            *(stride for t in timed for stride in _strides(t)),
            *(batch, channels, L, 0),
            N=N,
            BN=triton.next_power_of_2(N),
            BD=BACKWARD_CHANNEL_BLOCK,
            T=STEPS_AT_ONCE,
            KEPT=KEPT_EVERY,
            HAS_SKIP=D is not None,
            HAS_Z=z is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            num_warps=1,
            enable_fp_fusion=FUSED,
        )
    return (
        du,
        ddelta,
        dA.sum(1).transpose(1, 2).to(A.dtype).contiguous(),
        dB.sum(0).to(B.dtype).transpose(2, 3),
        dC.sum(0).to(C.dtype).transpose(2, 3),
        None if dD is None else dD.sum(1).to(D.dtype),
        dz,
        None if dbias is None else dbias.sum(1).to(bias.dtype),
    )


def _strides(t: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if t is None else (t.stride(0), t.stride(1), t.stride(3))


def _contiguous(t: Tensor | None, placeholder: Tensor) -> Tensor:
    return placeholder if t is None else t.contiguous()


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
