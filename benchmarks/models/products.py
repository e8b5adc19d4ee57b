"""The matrix products of a training step, run alone: a lower bound of its time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Every matrix product of a step under autograd, with the positions of its two factors among the arguments.
_FACTORS: Mapping[Any, slice] = {
    torch.ops.aten.mm.default: slice(0, 2),
    torch.ops.aten.bmm.default: slice(0, 2),
    torch.ops.aten.addmm.default: slice(1, 3),
    torch.ops.aten.baddbmm.default: slice(1, 3),
}


@dataclass(frozen=True, slots=True)
class Product:
    """One product [.., M, K] by [.., K, N], with its memory layout."""

    left: torch.Size
    left_strides: tuple[int, ...]
    right: torch.Size
    right_strides: tuple[int, ...]

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.left) * self.right[-1]

    def prepare(self) -> Callable[[], Tensor]:
        """Draw factors once; returns a function that multiplies them into preallocated memory."""
        left, right = (
            torch.randn(1 + sum((n - 1) * step for n, step in zip(size, strides, strict=True))).as_strided(
                size, strides
            )
            for size, strides in ((self.left, self.left_strides), (self.right, self.right_strides))
        )
        out = torch.empty(*self.left[:-1], self.right[-1])
        multiply = torch.bmm if len(self.left) == 3 else torch.mm
        return lambda: multiply(left, right, out=out)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's internals are untyped
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in _FACTORS:
            left, right = args[_FACTORS[func]]
            self.products.append(Product(left.shape, left.stride(), right.shape, right.stride()))
        return func(*args, **(kwargs or {}))


def record(step: Callable[[], object]) -> list[Product]:
    """List the products of one call, forward and backward.

    Products inside torch's fused attention are not recorded. With few variates they are a thousandth of the operations,
    and a lower bound may be too low, not too high.
    """
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.products
