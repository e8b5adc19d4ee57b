"""Training on a GPU: whether the Triton kernels are used, and what they bring."""
