"""Measurements beside the product: accuracy, models and kernels. They run from a checkout and are not installed."""
