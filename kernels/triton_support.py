"""The only module that imports Triton: on first use, optional, with a reason whenever a kernel is refused."""

import importlib
import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from kernels.errors import KernelError, KernelErrorCode
from kernels.precision import KERNEL_DTYPES

# Multiply and add with one rounding. Passed at every launch: Triton will change its default, and so our bits.
FUSED: Final = True
_OFF: Final = "KERNELS_TRITON"  # set to "off" to send every call to plain torch


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


# Looked up once: every call of an op asks, and the look-up reads the disk.
_INSTALLED: Final = _is_installed()


@dataclass(frozen=True, slots=True)
class Triton:
    """The two modules that a file of kernels needs."""

    triton: ModuleType
    language: ModuleType


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels on CPU tensors; must be set before Triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0") not in {"", "0"}


def absence() -> str | None:
    """Return why this process cannot use Triton, or None."""
    if os.environ.get(_OFF, "").lower() in {"off", "0"}:
        return f"{_OFF}=off is set"
    return None if _INSTALLED else "triton is not installed (it is published for Linux on x86_64 only)"


def load_triton() -> Triton:
    """Import Triton now.

    Raises:
        KernelError: `TRITON_UNAVAILABLE`, with the reason.

    """
    reason = absence()
    if reason is None:
        try:
            return Triton(importlib.import_module("triton"), importlib.import_module("triton.language"))
        except (ImportError, OSError) as failure:
            reason = f"triton does not import: {failure}"
    raise KernelError(KernelErrorCode.TRITON_UNAVAILABLE, reason, "call the public op: it takes the plain-torch path")


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's GPU the current one: Triton launches on the current GPU, which may be another one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why no Triton kernel may run on tensors of this device and dtype, or None."""
    reason = absence()
    if reason is None:
        reason = _unsuitable(device, on_interpreter=interpreted())
    if reason is None and interpreted() and dtype is torch.bfloat16:
        reason = "the interpreter silently computes wrong bfloat16 products"
    if reason is None and dtype not in KERNEL_DTYPES:
        reason = f"{dtype} has no kernel; float32, bfloat16 and float16 have one"
    return reason


def _unsuitable(device: torch.device, *, on_interpreter: bool) -> str | None:
    if on_interpreter:
        return None if device.type == "cpu" else f"the interpreter takes CPU tensors, not {device.type}"
    if device.type != "cuda":
        return f"tensors are on {device.type}; Triton kernels run on CUDA"
    if torch.version.hip is not None:
        return "ROCm builds are not tested"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None
