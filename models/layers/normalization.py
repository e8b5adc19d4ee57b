"""Scaling of each window by its own statistics, so that a network reads shapes instead of levels."""

from typing import NamedTuple

from torch import Tensor


class ScaledWindow(NamedTuple):
    """A scaled window, with the statistics that restore the level of a forecast.

    `values` [B, L, C], `location` and `scale` [B, 1, C].
    """

    values: Tensor
    location: Tensor
    scale: Tensor

    def restore(self, forecast: Tensor) -> Tensor:
        """Bring a forecast [B, H, C, Q] in window units back to data units."""
        return forecast * self.scale.unsqueeze(-1) + self.location.unsqueeze(-1)


def scale_window(window: Tensor, floor: float = 1e-5) -> ScaledWindow:
    """Subtract each window's mean and divide by its standard deviation, per channel.

    `window` [B, L, C]; `floor` is added to the variance, which keeps constant windows finite. This is reversible
    instance normalisation without its learned affine part (RevIN, ICLR 2022, section 3.1).

    >>> import torch
    >>> scaled = scale_window(torch.tensor([[[1.0], [2.0], [3.0]]]))
    >>> scaled.values.flatten().round(decimals=1)
    tensor([-1.2000,  0.0000,  1.2000])
    >>> scaled.restore(torch.zeros(1, 1, 1, 1)).item()
    2.0
    """
    location = window.mean(dim=1, keepdim=True)  # [B, 1, C]
    centred = window - location  # [B, L, C]
    scale = (centred.square().mean(dim=1, keepdim=True) + floor).sqrt()  # [B, 1, C]
    return ScaledWindow(centred / scale, location, scale)
