"""Config of one channel: its role, unit and bounds, and how its values are checked and repaired."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from forecast.strict import StrictModel
from forecast.units import conversion
from forecast.vocabulary import Fill, Resample, Role


class Channel(StrictModel):
    """One column of a data set: its role in the forecast, its valid values, and the filling of its gaps."""

    role: Role
    column: str = ""
    """Name in the source: the column, or the channel's name in long rows; empty: the channel's own name."""
    unit: str = ""
    source_unit: str = ""
    """Unit of the source's values, if it differs from ``unit``: ingestion converts them."""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """Smallest valid value. The check ``out_of_range`` handles smaller ones; forecasts never go below it."""
    upper: float | None = Field(default=None, allow_inf_nan=False)
    """Largest valid value."""
    clip: bool = Field(default=False, strict=True)
    """Whether the repair of ``out_of_range`` clips a value to the bound; else the value becomes missing."""
    sentinels: tuple[float, ...] = ()
    """Numbers that stand for a missing value in the source, such as -999."""
    fill: Fill = Fill.LINEAR
    fill_limit: int = Field(default=48, ge=0, strict=True)
    """The longest gap that is filled, in steps; a longer one stays, and no training window crosses it."""
    resample: Resample = Resample.NONE
    """How several rows within one step are aggregated to one value."""
    flat_after: int | None = Field(default=None, ge=2, strict=True)
    """Steps of one constant value, away from the bounds, that count as a ``flat_line``; default: two seasons."""
    spike: float = Field(default=10.0, gt=0)
    """A ``spike`` differs from both neighbours by more than this multiple of the 99th percentile of step changes."""
    jump: float = Field(default=20.0, gt=0)
    """A ``level_jump`` is a place where the levels of five seasons before and after it differ by more than this
    multiple of the median difference."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            message = f"lower ({self.lower}) must be less than upper ({self.upper})"
            raise ValueError(message)
        if self.source_unit and not self.unit:
            message = f'source_unit = "{self.source_unit}" needs unit, the unit that values are converted to'
            raise ValueError(message)
        if self.source_unit:
            conversion(self.source_unit, self.unit)  # raises ConfigError
        return self
