"""ProbSparse attention (Informer, arXiv 2012.07436): O(ln L) queries attend to all keys, others take the mean value.

100 steps, 2 heads of size 8; the result has the shape of the queries:

>>> import torch
>>> query, key, value = torch.randn(3, 1, 2, 100, 8).unbind(0)
>>> prob_sparse_attention(query, key, value).shape
torch.Size([1, 2, 100, 8])
>>> prob_sparse_route(query, key).path
'torch'
"""

from kernels.prob_sparse.attention import prob_sparse_attention, prob_sparse_queries, prob_sparse_route

__all__ = ["prob_sparse_attention", "prob_sparse_queries", "prob_sparse_route"]
