"""Embed the steps of a sequence as tokens, and halve a sequence of tokens (Informer)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.dropout import Dropout

# B batch, N steps, K channels, F calendar features, S constants, D width


class CircularConvolution(nn.Linear):
    """Convolution over time with a kernel of three steps and circular padding.

    Steps [B, N, K] in, [B, N, D] out. Columns `[0:K]`, `[K:2K]` and `[2K:3K]` of `weight` read the step before, the
    step itself and the step after. One matrix product, because on a CPU torch's convolution spends its time
    transposing tokens and rows.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = True) -> None:
        super().__init__(3 * channels, width, bias=bias)

    def forward(self, steps: Tensor) -> Tensor:
        """Convolve each step with its two neighbours."""
        return super().forward(torch.cat([steps.roll(1, 1), steps, steps.roll(-1, 1)], dim=2))


class StepEmbedding(nn.Module):
    """One token per step: its values and neighbours, its position, its calendar, and the constants of the series.

    Values [B, N, K], calendar [B, N, F] and constants [B, S] in (None without features), tokens [B, N, D] out.
    Source: arXiv 2012.07436, appendix B.
    """

    def __init__(self, steps: int, width: int, dropout: float, *, channels: int, calendar: int, constants: int) -> None:
        super().__init__()
        self.values = CircularConvolution(channels, width)
        # The authors' initialisation: values must be large beside the positions, which are fixed.
        nn.init.kaiming_normal_(self.values.weight, nonlinearity="leaky_relu")
        if calendar:
            self.calendar = nn.Linear(calendar, width, bias=False)
        if constants:
            self.constants = nn.Linear(constants, width, bias=False)
        self.register_buffer("places", sinusoids(steps, width), persistent=False)  # [N, D]
        self.dropout = Dropout(dropout)

    places: Tensor

    def forward(self, values: Tensor, calendar: Tensor | None, constants: Tensor | None) -> Tensor:
        """Embed every step."""
        tokens = self.values(values) + self.places  # [B, N, D]
        if calendar is not None:
            tokens = tokens + self.calendar(calendar)
        if constants is not None:
            tokens = tokens + self.constants(constants).unsqueeze(1)  # [B, 1, D]
        embedded: Tensor = self.dropout(tokens)
        return embedded


class Distilling(nn.Module):
    """Halve a sequence: convolution, normalisation, pooling of the strongest of three steps, ELU.

    Tokens [B, N, D] in, [B, ceil(N / 2), D] out. Source: arXiv 2012.07436, section 3.3; the batch normalisation comes
    from the authors' code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolve = CircularConvolution(width, width, bias=False)  # the normalisation would subtract a bias
        self.norm = nn.BatchNorm1d(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Keep every second step."""
        steps, width = tokens.shape[1:]
        # Rows, not channels first: torch normalises these ten times as fast on a CPU.
        normed = self.norm(self.convolve(tokens).view(-1, width)).view(-1, steps, width)  # [B, N, D]
        pooled = functional.max_pool1d(normed.transpose(1, 2), 3, stride=2, padding=1).transpose(1, 2)
        return functional.elu(pooled)  # ELU is monotonic, so it may follow the pooling, on half the steps


def sinusoids(steps: int, width: int) -> Tensor:
    """Return the fixed positions [N, D]: sines in even and cosines in odd columns (arXiv 1706.03762, 3.5)."""
    column = torch.arange(width, dtype=torch.float64)
    pair = column - column % 2
    angle = torch.arange(steps)[:, None] * torch.exp(-math.log(10_000) * pair / width)  # [N, D]
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(torch.get_default_dtype())
