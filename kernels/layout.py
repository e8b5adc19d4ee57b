"""Memory layout of time-varying tensors [..., X, L]: X (channels or states) innermost, as projections write them."""

import torch
from torch import Tensor


def channels_innermost(t: Tensor) -> Tensor:
    """Return `t` with X innermost in memory: `t` itself if it has that layout, else a copy."""
    return t if t.stride(-2) == 1 or t.shape[-2] == 1 else t.transpose(-1, -2).contiguous().transpose(-1, -2)


def empty_channels_innermost(like: Tensor) -> Tensor:
    """Allocate a tensor of the shape, dtype and device of `like` with X innermost in memory."""
    *lead, X, L = like.shape
    return torch.empty((*lead, L, X), dtype=like.dtype, device=like.device).transpose(-1, -2)
