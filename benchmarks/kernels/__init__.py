"""Benchmarks of the kernels: each script verifies first, then prints both sides of one run."""
