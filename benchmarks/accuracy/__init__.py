"""Accuracy on public data: each cell trains one model by the public protocol and writes one row."""
