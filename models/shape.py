"""The sizes from which every network is built."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowShape:
    """The sizes of one forecasting window, as networks read it.

    Every network of this package is called with
    `(past_target [B, L, C], past_covariates [B, L, P], historic_future [B, L, F], future [B, H, F], static [B, A, S])`,
    and returns `[B, H, C, Q]`; a tensor without features is None.

    >>> WindowShape(lookback=96, horizon=24, targets=7, future=4).outputs
    1
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
    """S: constants of a series, one set of them (A = 1) or one per target channel (A = C)."""
    outputs: int = 1
    """Q: values per target and step (quantile levels, or 1 for a point forecast)."""
    gap: int = 0
    """Steps between the last observation and the first forecast step."""
