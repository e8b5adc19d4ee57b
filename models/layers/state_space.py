"""State-space mixing of tokens: two Mamba blocks, one per direction, in one pass."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.selective_scan import selective_scan_bidirectional

# B batch, V tokens, D width, E inner width, N states of an inner channel, K tokens under the convolution, R rank

_DELTA_AT_START = (1e-3, 1e-1)  # initial step sizes, uniform on a log scale


class BidirectionalMamba(nn.Module):
    """M1(x) + flip(M2(flip(x))) with Mamba blocks M1 and M2; tokens [B, V, D] in and out.

    Both blocks go through the same operations at once: index 0 of a parameter belongs to M1, which reads from the first
    token to the last, index 1 to M2, which reads from the last to the first. `project_in` holds rows for (x of M1, x of
    M2, gate of M1, gate of M2), `taps[lag]` weighs the token `lag` places behind in reading direction. Initial values
    are those of the public Mamba: decays -1, -2, ..., -N in every channel, step sizes between 0.001 and 0.1.

    Sources: arXiv 2403.11144, section 4.2 (both ways); arXiv 2312.00752, section 3.4 (the block).
    """

    def __init__(self, width: int, states: int, convolution: int, expansion: int) -> None:
        super().__init__()
        rank = math.ceil(width / 16)
        self.inner = inner = expansion * width
        self.sizes = [rank, states, states]  # of delta's low-rank form, B and C
        self.project_in = nn.Linear(width, 4 * inner, bias=False)
        self.taps = nn.Parameter(_uniform(convolution, 2, 1, 1, inner, fan_in=convolution))  # [K, 2, 1, 1, E]
        self.taps_bias = nn.Parameter(_uniform(2, 1, 1, inner, fan_in=convolution))
        self.project_coefficients = nn.Parameter(_uniform(2, inner, sum(self.sizes), fan_in=inner))
        self.project_delta = nn.Parameter(_uniform(2, rank, inner, fan_in=rank))
        low, high = (math.log(bound) for bound in _DELTA_AT_START)
        delta = torch.empty(2, inner).uniform_(low, high).exp()
        self.delta_bias = nn.Parameter(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(2, inner, 1))  # [2, E, N]
        self.skip = nn.Parameter(torch.ones(2, inner))
        self.project_out = nn.Parameter(_uniform(2, inner, width, fan_in=inner))

    def forward(self, tokens: Tensor, keep: int | None = None) -> Tensor:
        """Mix tokens [B, V, D] along V; `keep` finishes only the first ones, [B, keep, D] out."""
        count, width = tokens.shape[1:]
        x, gate = self.project_in(tokens).view(-1, count, 2, 2, self.inner).permute(2, 3, 0, 1, 4)  # each [2, B, V, E]
        u = functional.silu(self._convolve(x)).to(x.dtype)  # [2, B, V, E]; autocast left it in float32
        coefficients = torch.bmm(u.flatten(1, 2), self.project_coefficients)  # [2, B * V, R + 2 N]
        low_rank, drive, read = torch.split(coefficients, self.sizes, dim=-1)
        delta = torch.bmm(low_rank, self.project_delta)  # [2, B * V, E]
        delta, drive, read = (part.view(2, -1, count, part.shape[-1]) for part in (delta, drive, read))
        scanned: Tensor = selective_scan_bidirectional(  # type: ignore[assignment]  # no states asked for
            u.mT,
            delta.mT,
            -self.log_decay.exp(),
            drive.mT,
            read.mT,
            self.skip,
            gate.mT,
            self.delta_bias,
            delta_softplus=True,
        )  # [2, B, E, V]
        kept = scanned.mT[:, :, :keep]  # [2, B, keep, E]
        first, second = torch.bmm(kept.flatten(1, 2), self.project_out)
        output: Tensor = first + second
        return output.view(-1, kept.shape[2], width)  # [B, keep, D]

    def _convolve(self, x: Tensor) -> Tensor:
        """Weigh each token and those just read, channel by channel: [2, B, V, E] in and out."""
        mixed = torch.addcmul(self.taps_bias, self.taps[0], x)
        for lag in range(1, min(len(self.taps), x.shape[2])):
            behind = (functional.pad(x[0], (0, 0, lag, -lag)), functional.pad(x[1], (0, 0, -lag, lag)))
            mixed = mixed + self.taps[lag] * torch.stack(behind)
        return mixed


def _uniform(*shape: int, fan_in: int) -> Tensor:
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)
