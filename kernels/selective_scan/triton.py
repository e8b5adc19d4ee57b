"""The selective scan on a GPU: launches of the kernels in `programs`.

Both directions run in one launch. The kernel writes partial sums over batch and channels, and torch adds them in a
fixed order, so gradients repeat bit by bit.
"""

from typing import Final

import torch
from torch import Tensor

from kernels.layout import channels_innermost, empty_channels_innermost
from kernels.selective_scan import programs as kernel
from kernels.selective_scan.inputs import ScanInputs
from kernels.selective_scan.torch import KEPT_EVERY
from kernels.triton_support import FUSED, load_triton, on_device_of

triton = load_triton().triton

# G directions, B batch, D channels, N states of a channel, L steps

STEPS_AT_ONCE: Final = 4  # divides KEPT_EVERY
CHANNEL_BLOCK: Final = 32
TILE_WARPS: Final = 4
BACKWARD_CHANNEL_BLOCK: Final = 16  # four recomputed states of 32 channels would not fit in registers


def forward(given: ScanInputs, *, save: bool, by_tile: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output [G, B, D, L], the last state [G, B, D, N], and, with `save`, states [ceil(L / 16), G, B, N, D].

    `by_tile` scans 16 steps at once with four warps per program; otherwise one warp scans step by step.
    """
    u, delta, A, B, C, D, z, bias, softplus = given
    G, batch, channels, L = u.shape
    N = A.shape[2]
    timed = [None if t is None else channels_innermost(t) for t in (u, delta, *_over_time(B, C), z)]
    out = empty_channels_innermost(u)
    last = _floats(u, G, batch, N, channels)
    states = _floats(u, *((triton.cdiv(L, KEPT_EVERY), G, batch, N, channels) if save else (0,)))
    if by_tile:
        launch, channel_block = kernel.scan_forward_tile, tile_channels(N)
        form = {"T": KEPT_EVERY, "num_warps": TILE_WARPS}
    else:
        launch, channel_block = kernel.scan_forward, CHANNEL_BLOCK
        form = {"zero": 0, "T": STEPS_AT_ONCE, "KEPT": KEPT_EVERY, "num_warps": 1}
    with on_device_of(u):
        launch[triton.cdiv(channels, channel_block) * batch, G](
            *(timed[0], timed[1], _by_state(A), _by_state(B, timed[2]), _by_state(C, timed[3])),
            *(_contiguous(D, u), u if z is None else timed[4], _contiguous(bias, u), out, last, states),
            *(stride for t in timed for stride in _strides(t)),
            *(batch, channels, L),
            N=N,
            BN=triton.next_power_of_2(N),
            BD=channel_block,
            HAS_SKIP=D is not None,
            HAS_Z=z is not None,
            HAS_BIAS=bias is not None,
            SOFTPLUS=softplus,
            B_VARIES=B.dim() == 4,
            C_VARIES=C.dim() == 4,
            SAVE=save,
            enable_fp_fusion=FUSED,
            **form,
        )
    return out, last.transpose(2, 3).contiguous(), states


def backward(grad: Tensor, grad_last: Tensor, given: ScanInputs, states: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of u, delta, A, B, C, D, z, bias."""
    u, delta, A, B, C, D, z, bias, softplus = given
    G, batch, channels, L = u.shape
    N = A.shape[2]
    timed = [None if t is None else channels_innermost(t) for t in (u, delta, *_over_time(B, C), z, grad)]
    du, ddelta, dz = (None if t is None else empty_channels_innermost(t) for t in (u, delta, z))
    dA = _floats(u, G, batch, N, channels)
    blocks = triton.cdiv(channels, BACKWARD_CHANNEL_BLOCK)
    dB, dC = (_floats(u, *((blocks, G, batch, L, N) if t.dim() == 4 else (G, batch, N, channels))) for t in (B, C))
    dD, dbias = (None if t is None else _floats(u, G, batch, channels) for t in (D, bias))
    with on_device_of(u):
        kernel.scan_backward[triton.cdiv(channels, BACKWARD_CHANNEL_BLOCK) * batch, G](
            *(timed[0], timed[1], _by_state(A), _by_state(B, timed[2]), _by_state(C, timed[3])),
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
            B_VARIES=B.dim() == 4,
            C_VARIES=C.dim() == 4,
            num_warps=1,
            enable_fp_fusion=FUSED,
        )
    return (
        du,
        ddelta,
        _summed(dA, A),
        _summed(dB, B),
        _summed(dC, C),
        None if dD is None else dD.sum(1).to(D.dtype),
        dz,
        None if dbias is None else dbias.sum(1).to(bias.dtype),
    )


def tile_channels(states: int) -> int:
    """Count a tile's channels: with 16 steps and all states at most 4096 numbers, 32 a lane, for its registers."""
    return max(4, min(32, 256 // triton.next_power_of_2(states)))


def _over_time(*coefficients: Tensor) -> list[Tensor | None]:
    return [t if t.dim() == 4 else None for t in coefficients]


def _by_state(coefficient: Tensor, over_time: Tensor | None = None) -> Tensor:
    """Transpose a coefficient per channel [G, D, N] to [G, N, D], as kernels read it; keep one that varies in time."""
    return coefficient.transpose(1, 2).contiguous() if over_time is None else over_time


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    """Add partial sums, over blocks of channels for [G, B, N, L] and over the batch for [G, D, N]."""
    if like.dim() == 4:
        return parts.sum(0).to(like.dtype).transpose(2, 3)
    return parts.sum(1).transpose(1, 2).to(like.dtype).contiguous()


def _strides(t: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if t is None else (t.stride(0), t.stride(1), t.stride(3))


def _contiguous(t: Tensor | None, placeholder: Tensor) -> Tensor:
    return placeholder if t is None else t.contiguous()


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
