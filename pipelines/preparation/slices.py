"""Split a panel in time order into fit, early stopping, calibration and holdout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from forecast.config.dataset import DatasetConfig
from forecast.config.splits import instant, published_rows
from forecast.errors import TrainingError
from forecast.panel import Panel


@dataclass(frozen=True, slots=True)
class Slices:
    """End rows of the parts of a panel: fit [0, fit), then early stopping, calibration, holdout; the rest is unused."""

    fit: int
    validation: int
    calibration: int
    holdout: int

    @classmethod
    def of(cls, panel: Panel, config: DatasetConfig) -> Slices:
        """Compute the rows of the splits in the config file.

        Raises ``training.too_short`` if no window is left to fit on, ``training.split_too_short`` if a part has fewer
        rows than the horizon, or begins after the last row, and ``training.not_as_published`` if the benchmark has too
        few rows.
        """
        slices = _published(panel, config) if config.splits.published else _measured(panel, config)
        ends = (slices.fit, slices.validation, slices.calibration, slices.holdout)
        for part, begin, end in zip(config.splits.parts, ends, ends[1:], strict=False):
            if end - begin < config.horizon:
                raise TrainingError(
                    "training.split_too_short",
                    f"splits.{part} has {max(end - begin, 0)} rows, from {panel.time(begin)} to {panel.time(end)}, but "
                    f"the longest horizon needs {config.horizon}",
                    "correct splits in the config file, or ingest the missing rows",
                )
        needed = config.lookback + config.horizon
        if slices.fit < needed:
            raise TrainingError(
                "training.too_short",
                f"{max(slices.fit, 0)} rows are left to fit on, but one window needs {needed} "
                f"(look-back {config.lookback} + horizon {config.horizon})",
                "ingest a longer history, or shorten lookback, horizons or splits in the config file",
            )
        return slices


def _measured(panel: Panel, config: DatasetConfig) -> Slices:
    def row(moment: datetime) -> int:
        return -((panel.start - instant(moment, config.tz)) // panel.step)  # the first row that is not before it

    rows = panel.steps if config.splits.until is None else min(row(config.splits.until), panel.steps)
    ends = [rows]
    for part in reversed(list(config.splits.parts.values())):
        if isinstance(part, datetime):
            ends.append(row(part))
        else:
            ends.append(ends[-1] - (part // panel.step if isinstance(part, timedelta) else round(part * rows)))
    return Slices(*reversed(ends))


def _published(panel: Panel, config: DatasetConfig) -> Slices:
    train, validation, test = published_rows(config.source, panel.steps)
    if train + validation + test > panel.steps:
        raise TrainingError(
            "training.not_as_published",
            f"the published parts have {train + validation + test} rows, but the data set has {panel.steps}",
            "ingest the whole benchmark, or set splits in the config file",
        )
    return Slices(train, train + validation // 2, train + validation, train + validation + test)
