"""Training on a GPU: a check that Triton kernels are used, and their speed-up."""
