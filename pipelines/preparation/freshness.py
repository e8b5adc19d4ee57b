"""Freshness of a forecast's inputs: the share of filled values, and the times of the newest observed ones."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.panel import Mask, Panel


def imputed_fraction(panel: Panel, config: DatasetConfig) -> float:
    """Return the share of the look-back's target values that are filled instead of observed."""
    return 1.0 - float(panel.observed[:, -config.lookback :].mean())


def newest_observed(panel: Panel, config: DatasetConfig) -> dict[str, dict[str, datetime | None]]:
    """Return the time of the newest observed value by series and channel; ``None`` where there is none.

    The age of a value is the origin, ``panel.end``, minus this time: at least one step. Future covariates may be
    observed beyond the origin.
    """
    parts = (
        (config.targets, panel.observed),
        (config.past_covariates, panel.past_observed),
        (config.future_covariates, panel.future_observed),
    )
    found: dict[str, dict[str, datetime | None]] = {name: {} for name in panel.series}
    for names, observed in parts:
        for series, rows in zip(panel.series, newest_rows(observed).tolist(), strict=True):
            times = (None if row < 0 else panel.time(row) for row in rows)
            found[series] |= dict(zip(names, times, strict=True))
    return found


def observed_until(panel: Panel) -> datetime | None:
    """Return the oldest of the newest observed times of all series and targets; ``None`` if one has no value."""
    furthest_behind = int(newest_rows(panel.observed).min())
    return None if furthest_behind < 0 else panel.time(furthest_behind)


def newest_rows(observed: Mask) -> np.ndarray:
    """Return the last observed row of a mask [S, T, K], as [S, K]; -1 where there is none.

    >>> newest_rows(np.asarray([True, True, False])[None, :, None]).tolist()
    [[1]]
    """
    rows = observed.shape[1]
    return np.where(observed.any(axis=1), rows - 1 - observed[:, ::-1].argmax(axis=1), -1)
