"""Dropout with masks that are cheap on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Zero a share `rate` of all values while training and scale the rest up, as `torch.nn.Dropout` does.

    On a CPU torch draws one random number per value, which takes a third of a training step of these models. This class
    draws one number per eight values and compares bytes. So the rate is rounded to 1/256 there, and the scale with it:
    the mean is kept.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.dropped = min(round(rate * 256), 255)  # bytes below this are dropped
        self.scale = 256 / (256 - self.dropped)

    def extra_repr(self) -> str:
        """Show the rate in the printed network."""
        return f"rate={self.rate}"

    def forward(self, values: Tensor) -> Tensor:
        """Drop values of any shape."""
        if not self.training or self.dropped == 0:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.rate)
        words = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # 64 random bits each
        # Byte arithmetic: comparing gives booleans, which torch neither writes nor converts with vector instructions.
        kept = words.view(torch.uint8)[: values.numel()].view(values.shape).clamp(self.dropped - 1, self.dropped)
        return values * kept.sub_(self.dropped - 1).to(values.dtype).mul_(self.scale)
