"""The selective scan as the paper writes it (Mamba, arXiv 2312.00752, section 3.2, algorithm 2).

The reference of all tests: one step after another, differentiable by autograd, exact in float64. Autograd keeps every
state: training is slow.
"""

import torch
from torch import Tensor
from torch.nn import functional

# B batch, D channels, N states of a channel, L steps


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scan: h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t, y_t = C_t h_t + D u_t; output [B, D, L] and last state."""
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    if delta_softplus:
        step = functional.softplus(step)
    h = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])  # [B, D, N]
    rows = []
    for t in range(u.shape[2]):
        B_t = B[:, None, :, t] if B.dim() == 3 else B
        C_t = C[:, None, :, t] if C.dim() == 3 else C
        h = torch.exp(step[:, :, t, None] * A) * h + (step[:, :, t] * u[:, :, t])[..., None] * B_t
        rows.append((h * C_t).sum(-1))
    y = torch.stack(rows, 2)
    if D is not None:
        y = y + D[:, None] * u
    return y if z is None else y * functional.silu(z), h
