"""Benchmarks of the kernels: each script first verifies results, then prints both sides of one run."""
