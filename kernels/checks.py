"""Checks of shapes, dtypes and devices that ops share. They need no device work, so every call runs them."""

from collections.abc import Mapping

from torch import Tensor

from kernels.errors import KernelError, KernelErrorCode
from kernels.precision import DTYPES


def require_shape(name: str, tensor: Tensor, expected: Mapping[str, int | None]) -> None:
    """Require the dimensions `expected`, by name and size (None: any size); no dimension may be empty.

    Raises:
        KernelError: `SHAPE_MISMATCH` or `EMPTY_DIMENSION`.

    """
    wanted = f"[{', '.join(expected)}]"
    shape = list(tensor.shape)
    if tensor.dim() != len(expected):
        raise KernelError(
            KernelErrorCode.SHAPE_MISMATCH,
            f"{name} has {tensor.dim()} dimensions {shape}, not {wanted}",
            f"pass {name} as {wanted}",
        )
    for (label, size), found in zip(expected.items(), shape, strict=True):
        if size is not None and found != size:
            raise KernelError(
                KernelErrorCode.SHAPE_MISMATCH,
                f"{name} {shape} has {label}={found} where the other tensors have {label}={size}",
                f"pass {name} as {wanted}",
            )
        if found == 0:
            raise KernelError(
                KernelErrorCode.EMPTY_DIMENSION,
                f"{name} {shape} has {label}=0",
                f"give {label} at least one element",
            )


def require_same_kind(tensors: Mapping[str, Tensor | None]) -> None:
    """Require one supported floating dtype and one device for all tensors; None entries are skipped.

    Raises:
        KernelError: `MIXED_DTYPES`, `MIXED_DEVICES` or `UNSUPPORTED_DTYPE`.

    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if len({tensor.dtype for tensor in given.values()}) > 1:
        raise KernelError(
            KernelErrorCode.MIXED_DTYPES,
            f"dtypes differ: {', '.join(f'{name} {tensor.dtype}' for name, tensor in given.items())}",
            "cast them to one dtype",
        )
    require_same_device(given)
    name, first = next(iter(given.items()))
    if first.dtype not in DTYPES:
        raise KernelError(
            KernelErrorCode.UNSUPPORTED_DTYPE,
            f"{name} is {first.dtype}",
            "cast to float32, bfloat16, float16 or float64",
        )


def require_same_device(tensors: Mapping[str, Tensor | None]) -> None:
    """Require one device for all tensors; None entries are skipped.

    Raises:
        KernelError: `MIXED_DEVICES`.

    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if len({tensor.device for tensor in given.values()}) > 1:
        raise KernelError(
            KernelErrorCode.MIXED_DEVICES,
            f"devices differ: {', '.join(f'{name} {tensor.device}' for name, tensor in given.items())}",
            "move them to one device",
        )


def require_finite(tensors: Mapping[str, Tensor | None]) -> None:
    """Require finite values. This waits for the device, so ops call it only on request.

    Raises:
        KernelError: `NOT_FINITE`.

    """
    for name, tensor in tensors.items():
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise KernelError(
                KernelErrorCode.NOT_FINITE,
                f"{name} holds NaN or infinite values",
                "clean or scale the data before the network reads it",
            )
