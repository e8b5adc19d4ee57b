"""Benchmarks: the measurements behind the documentation's figures. They run from a checkout and are not installed."""
