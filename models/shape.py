"""The sizes that every network is built from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowShape:
    """One forecasting window as the networks see it.

    Every network of this package is called with
    `(past_target [B, L, C], past_covariates [B, L, P], historic_future [B, L, F], future [B, H, F], static [B, A, S])`,
    where a tensor without features is None, and returns `[B, H, C, Q]`.
    """

    lookback: int
    """L: observed steps."""
    horizon: int
    """H: steps to forecast."""
    targets: int
    """C: target channels."""
    past: int = 0
    """P: covariates known up to the forecast origin."""
    future: int = 0
    """F: covariates known over the look-back and the horizon."""
    static: int = 0
    """S: constants of a series; given once (A = 1) or per target channel (A = C)."""
    outputs: int = 1
    """Q: values per target and step (quantile levels, or 1 for a point forecast)."""
    gap: int = 0
    """Steps between the last observation and the first forecast step."""
