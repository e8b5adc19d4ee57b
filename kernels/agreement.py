"""Compare an op with its reference: outputs and gradients, against float64, with a tolerance per dtype.

The error of a tensor is ||x - y|| / ||y|| (Frobenius norms) so that one badly wrong row shows and rounding does not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels.errors import KernelError, KernelErrorCode

Op = Callable[..., Tensor | tuple[Tensor, ...]]

# Rounding of the inputs alone gives about 1e-7, 5e-4 and 4e-3; sums over hundreds of terms add a small factor.
TOLERANCE: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 2e-2,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output or one gradient is from the reference."""

    name: str
    error: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the error is within the tolerance; NaN never is, because every comparison with NaN is false."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Agreement:
    """The differences of all outputs and gradients of one call."""

    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether every output and gradient is within its tolerance."""
        return all(difference.agrees for difference in self.differences)

    @property
    def worst(self) -> Difference:
        """The difference that uses the largest part of its tolerance; NaN ranks first."""
        return max(self.differences, key=lambda d: math.inf if math.isnan(d.error) else d.error / d.tolerance)

    def require(self) -> None:
        """Raise `KernelError` unless every output and gradient agrees."""
        if not self.agrees:
            message = ", ".join(f"{d.name} {d.error:.2e} > {d.tolerance:.0e}" for d in self.differences if not d.agrees)
            raise KernelError(
                KernelErrorCode.DISAGREES,
                f"the op disagrees with its reference: {message}",
                "do not use this kernel; set KERNELS_TRITON=off and report shapes, dtype and device",
            )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64; the norm of `found` if `expected` is zero.

    Infinities and NaN agree only with themselves at the same index; a different shape gives NaN.

    >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
    0.1
    """
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if found.shape != expected.shape:
        return float("nan")
    special = ~expected.isfinite()
    if bool(special.any()):
        if not torch.equal(found[special].nan_to_num(nan=7.0), expected[special].nan_to_num(nan=7.0)):
            return float("nan")
        found, expected = found[~special], expected[~special]
    size = float(expected.norm()) if expected.numel() else 0.0
    return float((found - expected).norm()) / (size or 1.0) if found.numel() else 0.0


def compare(
    op: Op,
    reference: Op,
    inputs: Mapping[str, Tensor | None],
    *,
    tolerance: float | None = None,
    gradients: bool = True,
    baseline: Op | None = None,
    seed: int = 0,
) -> Agreement:
    """Call `op` on `inputs` as they are and `reference` on float64 copies, and measure the differences.

    `baseline` is plain torch in the inputs' own precision. The tolerance is the larger of `TOLERANCE[dtype]` and twice
    the baseline's error. Gradients are those of a fixed random projection of all outputs.

    >>> inputs = {"input": torch.linspace(0, 1, 5)}
    >>> compare(torch.sigmoid, lambda input: 1 / (1 + torch.exp(-input)), inputs).agrees
    True
    """
    dtype = next(value.dtype for value in inputs.values() if value is not None and value.is_floating_point())
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    exact = {name: _upcast(value) for name, value in inputs.items()}
    expected = _run(reference, exact, gradients=gradients, seed=seed)
    found = _run(op, inputs, gradients=gradients, seed=seed)
    plain = _run(baseline, inputs, gradients=gradients, seed=seed) if baseline is not None else {}
    return Agreement(
        tuple(
            Difference(
                name,
                relative_error(found[name], expected[name]),
                max(limit, 2 * relative_error(plain[name], expected[name])) if name in plain else limit,
            )
            for name in expected
        )
    )


def _upcast(value: Tensor | None) -> Tensor | None:
    if value is None or not value.is_floating_point():
        return value
    return value.detach().double()


def _run(op: Op, inputs: Mapping[str, Tensor | None], *, gradients: bool, seed: int) -> dict[str, Tensor]:
    leaves = {
        name: value.detach().requires_grad_(gradients) if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = op(**leaves)
    outputs = outputs if isinstance(outputs, Sequence) else (outputs,)
    results = {f"output {index}": output for index, output in enumerate(outputs)}
    if gradients:
        draw = torch.Generator().manual_seed(seed)
        loss = sum(
            (out.double() * torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out.device)).sum()
            for out in outputs
        )
        learned = {name: leaf for name, leaf in leaves.items() if leaf is not None and leaf.requires_grad}
        grads = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        for (name, leaf), grad in zip(learned.items(), grads, strict=True):
            results[f"gradient of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return results
