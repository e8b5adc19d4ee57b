"""Schemas of realised accuracy."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class AccuracyQuery(BaseModel):
    """Which part is asked for; a parameter that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[
        Literal["all", "lead_time", "lead_group", "channel", "model", "series"],
        Field(description="What there is one row of; lead_group: the horizons of the job file."),
    ] = "lead_group"
    window: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9][0-9]{0,5}[smhdw]$",
            description="Forecasts with origins of the last so long, in whole UTC days, such as 30d; all if left out.",
        ),
    ] = None
    channel: Annotated[str | None, Field(description="Of this channel alone, and also in its unit.")] = None
    model: Annotated[str | None, Field(max_length=64, description="Of this model version alone.")] = None


class AccuracyRow(BaseModel):
    """How good the forecasts of one part were; null where it cannot be told."""

    part: str = Field(description="A lead time, a group of them as 1-24, a channel, a model version, a series, or all.")
    count: int = Field(description="Values that were really observed; what was filled counts nowhere.")
    mae: float = Field(description="Of the median, in standard deviations of each channel.")
    rmse: float = Field(description="Of the mean, in standard deviations.")
    mase: float | None = Field(
        description="Absolute error over that of the seasonal naive forecast on the rows that the model was fitted on."
    )
    pinball: float = Field(description="Quantile loss in deviations, averaged over levels and doubled.")
    wql: float | None = Field(description="That loss in original units over the mean absolute value.")
    coverage: float = Field(description="Share of values within the outermost quantiles.")
    promised_coverage: float
    width: float = Field(description="Of the band, in deviations.")
    skill: float | None = Field(
        description="1 - absolute error / that of the seasonal naive forecast from what was known at the origin."
    )
    pinball_by_level: dict[str, float]
    mae_in_units: float | None = Field(description="Where the row is of one channel.")
    rmse_in_units: float | None


class AccuracyAnswer(BaseModel):
    """Realised accuracy of served forecasts."""

    dataset: str
    by: str
    since: datetime | None = Field(description="Beginning of the window, whose day counts whole.")
    rows: list[AccuracyRow] = Field(description="Empty before anything was scored.")
