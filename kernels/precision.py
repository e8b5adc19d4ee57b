"""The dtypes that ops accept, and the dtype in which they compute."""

from typing import Final

import torch

DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KERNEL_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of scores, states, softmax and sums: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype is torch.float64 else torch.float32
