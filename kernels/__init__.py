"""The ops that make long horizons affordable, in torch and Triton; nothing here knows about forecasting."""

from kernels.errors import KernelError, KernelErrorCode
from kernels.prob_sparse.attention import prob_sparse_attention, prob_sparse_queries, prob_sparse_route
from kernels.routing import Route, recorded_routes
from kernels.selective_scan.scan import selective_scan, selective_scan_bidirectional, selective_scan_route

__all__ = [
    "KernelError",
    "KernelErrorCode",
    "Route",
    "prob_sparse_attention",
    "prob_sparse_queries",
    "prob_sparse_route",
    "recorded_routes",
    "selective_scan",
    "selective_scan_bidirectional",
    "selective_scan_route",
]
