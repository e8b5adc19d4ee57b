"""The ops that make long horizons affordable, in torch and Triton; nothing here knows about forecasting.

Each op has a package of its own, which exports its public functions:

>>> from kernels.prob_sparse import prob_sparse_attention
>>> from kernels.selective_scan import selective_scan
"""

from kernels.errors import KernelError, KernelErrorCode
from kernels.routing import Route, recorded_routes

__all__ = ["KernelError", "KernelErrorCode", "Route", "recorded_routes"]
