"""The arguments of every implementation of the scan."""

from typing import NamedTuple

from torch import Tensor

# G directions (the second runs from the last step to the first), B batch, D channels, N states of a channel, L steps


class ScanInputs(NamedTuple):
    """The tensors of one call, directions stacked in front; a tuple, as a registered op takes them one by one."""

    u: Tensor  # [G, B, D, L]
    delta: Tensor  # [G, B, D, L]
    A: Tensor  # [G, D, N]
    B: Tensor  # [G, B, N, L], or [G, D, N] where it does not depend on time
    C: Tensor  # as B
    D: Tensor | None  # [G, D]
    z: Tensor | None  # [G, B, D, L]
    bias: Tensor | None  # [G, D]
    softplus: bool
