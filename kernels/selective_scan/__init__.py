"""The selective scan of a state space model (Mamba, arXiv 2312.00752), one way or both ways along a sequence.

One sequence of 100 steps with 4 channels and 2 states per channel:

>>> import torch
>>> u, delta = torch.randn(2, 1, 4, 100).unbind(0)
>>> A, B, C = -torch.ones(4, 2), torch.randn(1, 2, 100), torch.randn(1, 2, 100)
>>> selective_scan(u, delta, A, B, C, delta_softplus=True).shape
torch.Size([1, 4, 100])
>>> selective_scan_route(u, A).path
'torch'
"""

from kernels.selective_scan.scan import selective_scan, selective_scan_bidirectional, selective_scan_route

__all__ = ["selective_scan", "selective_scan_bidirectional", "selective_scan_route"]
