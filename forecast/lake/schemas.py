"""The columns of the lake's tables. Times are UTC, in microseconds."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("us", "UTC")
KEY = ("series", "time")
VERSION = "version"

FORECASTS = pl.Schema(
    {
        "forecast_id": pl.String(),
        "issued_month": pl.String(),
        "series": pl.String(),
        "channel": pl.String(),
        "lead": pl.Int32(),
        "time": TIME,
        "mean": pl.Float64(),
        "quantiles": pl.List(pl.Float64()),
    }
)
"""Issued forecasts: one row per series, channel and lead (1 is the first step); quantiles in the issuance's order."""

ISSUED = pl.Schema({**FORECASTS, "naive": pl.Float64(), "base": pl.List(pl.Float64())})
"""Issued forecasts with the columns for scoring. ``naive``: the seasonal naive forecast from the data known at the
origin. ``base``: the quantiles before a correction. Null where there is none."""

QUARANTINE = pl.Schema(
    {
        "recorded_at": TIME,
        "source": pl.String(),
        "row": pl.Int64(),
        "code": pl.String(),
        "reason": pl.String(),
        "series": pl.String(),
        "time": pl.String(),
        "content": pl.String(),
        "digest": pl.String(),
    }
)
"""Quarantined rows: ``series`` and ``time`` as received, ``content`` the whole row as JSON, ``digest`` of code
and content."""
