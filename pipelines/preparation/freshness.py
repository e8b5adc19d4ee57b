"""How much of what a forecast rests on was observed, and how recently."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.panel import Mask, Panel


def imputed_fraction(panel: Panel, config: DatasetConfig) -> float:
    """Return the share of the look-back's target values that were filled, not observed."""
    return 1.0 - float(panel.observed[:, -config.lookback :].mean())


def newest_observed(panel: Panel, config: DatasetConfig) -> dict[str, dict[str, datetime | None]]:
    """Return by series and channel the time of the newest value that was observed; ``None`` where none ever was.

    The origin, ``panel.end``, minus that time is the value's age: one step at least. Known-future covariates may be
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
    """Return the newest observed time of the series and target that are furthest behind; ``None`` if one never was."""
    furthest_behind = int(newest_rows(panel.observed).min())
    return None if furthest_behind < 0 else panel.time(furthest_behind)


def newest_rows(observed: Mask) -> np.ndarray:
    """Return the last row that was observed of [S, T, K], as [S, K]; -1 where none was."""
    rows = observed.shape[1]
    return np.where(observed.any(axis=1), rows - 1 - observed[:, ::-1].argmax(axis=1), -1)
