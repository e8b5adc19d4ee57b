"""Cut the history of each channel into patches."""

import torch
from torch import Tensor, nn

from models.errors import LookbackTooShortError, OptionOutOfRangeError


class Patching(nn.Module):
    """Cut each channel into patches that end with the newest step.

    Values [B, L, C] in, patches [B, C, N, length] out, N = `count`. The oldest steps that fill no patch are
    dropped, because the newest matter most. Source: arXiv 2306.09364, section 3.1.

    >>> patching = Patching(lookback=10, length=4, stride=3)
    >>> patching(torch.arange(10.0).view(1, 10, 1))[0, 0]
    tensor([[0., 1., 2., 3.],
            [3., 4., 5., 6.],
            [6., 7., 8., 9.]])

    Raises:
        LookbackTooShortError: the look-back is shorter than one patch.
        OptionOutOfRangeError: length or stride below 1.

    """

    def __init__(self, lookback: int, length: int, stride: int) -> None:
        super().__init__()
        if length < 1:
            raise OptionOutOfRangeError("patch_length", length, "1 or more")
        if stride < 1:
            raise OptionOutOfRangeError("patch_stride", stride, "1 or more")
        if lookback < length:
            raise LookbackTooShortError(lookback, length, f"a patch of {length} steps")
        self.length = length
        self.stride = stride
        self.count = (lookback - length) // stride + 1
        self.start = lookback - length - stride * (self.count - 1)
        rows = torch.arange(self.count)[:, None] * stride + torch.arange(length)
        self.register_buffer("steps", rows, persistent=False)  # [N, length], within the kept steps

    steps: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """Cut [B, L, C] into [B, C, N, length]."""
        kept = values[:, self.start :]  # [B, L - start, C]
        if self.stride == self.length:  # no copy
            return torch.unflatten(kept, 1, (self.count, self.length)).permute(0, 3, 1, 2)
        return kept[:, self.steps].permute(0, 3, 1, 2)
