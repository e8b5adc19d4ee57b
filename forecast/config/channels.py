"""One column of a data set as the job file tells it: role, unit, bounds, how its values are checked and repaired."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from forecast.strict import StrictModel
from forecast.units import conversion
from forecast.vocabulary import Fill, Resample, Role


class Channel(StrictModel):
    """One column of a data set: what it is to the forecast, what its values may be, and how its gaps are filled."""

    role: Role
    column: str = ""
    """The column's name in the source, or its name among the source's long rows; the channel's own if empty."""
    unit: str = ""
    source_unit: str = ""
    """Unit of the source's values if it is another than ``unit``: they are converted when they come in."""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """Smallest value that can be; smaller ones are handled by the check ``out_of_range`` and never forecast."""
    upper: float | None = Field(default=None, allow_inf_nan=False)
    """Largest value that can be."""
    clip: bool = Field(default=False, strict=True)
    """Whether the repair of ``out_of_range`` moves a value to the bound; else it becomes missing."""
    sentinels: tuple[float, ...] = ()
    """Numbers by which the source says that it has none, such as -999."""
    fill: Fill = Fill.LINEAR
    fill_limit: int = Field(default=48, ge=0, strict=True)
    """The most consecutive missing steps that are filled; a longer gap stays, and no training window crosses it."""
    resample: Resample = Resample.NONE
    """How several rows within one step become one value."""
    flat_after: int | None = Field(default=None, ge=2, strict=True)
    """Steps of one and the same value, off the bounds, that make a ``flat_line``; two seasons if not given."""
    spike: float = Field(default=10.0, gt=0)
    """A ``spike`` leaves both neighbours by more than this many times what 99 of 100 steps are smaller than."""
    jump: float = Field(default=20.0, gt=0)
    """A ``level_jump`` lies where levels of five seasons differ by more than this many times the median difference."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            message = f"lower ({self.lower}) must be less than upper ({self.upper})"
            raise ValueError(message)
        if self.source_unit and not self.unit:
            message = f'source_unit = "{self.source_unit}" needs unit, to which it is converted'
            raise ValueError(message)
        if self.source_unit:
            conversion(self.source_unit, self.unit)  # raises ConfigError
        return self
