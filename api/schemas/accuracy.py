"""Schemas of realised accuracy."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class AccuracyQuery(BaseModel):
    """Parameters of realised accuracy; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[
        Literal["all", "lead_time", "lead_group", "channel", "model", "series"],
        Field(description="Grouping of the rows; lead_group: the horizons of the config file."),
    ] = "lead_group"
    window: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9][0-9]{0,5}[smhdw]$",
            description="Only forecasts with an origin in this period, in whole UTC days, such as 30d; default: all.",
        ),
    ] = None
    channel: Annotated[str | None, Field(description="Only this channel; adds errors in its unit.")] = None
    model: Annotated[str | None, Field(max_length=64, description="Only this model version.")] = None


class AccuracyRow(BaseModel):
    """Accuracy of one group; null where a measure is undefined."""

    part: str = Field(description="A lead time, a group of them as 1-24, a channel, a model version, a series, or all.")
    count: int = Field(description="Number of observed values; imputed values do not count.")
    mae: float = Field(description="Of the median, in standard deviations of each channel.")
    rmse: float = Field(description="Of the mean, in standard deviations.")
    mase: float | None = Field(
        description="Absolute error relative to the seasonal naive forecast on the rows that the model was fitted on."
    )
    pinball: float = Field(description="Quantile loss in deviations, averaged over levels and doubled.")
    wql: float | None = Field(description="Quantile loss in original units over the mean absolute value.")
    coverage: float = Field(description="Share of values within the outermost quantiles.")
    promised_coverage: float
    width: float = Field(description="Width of the band, in deviations.")
    skill: float | None = Field(
        description="1 - absolute error / that of the seasonal naive forecast from the data known at the origin."
    )
    pinball_by_level: dict[str, float]
    mae_in_units: float | None = Field(description="Only for a row of one channel.")
    rmse_in_units: float | None


class AccuracyAnswer(BaseModel):
    """Realised accuracy of served forecasts."""

    dataset: str
    by: str
    since: datetime | None = Field(description="Beginning of the window, at the start of its day.")
    rows: list[AccuracyRow] = Field(description="Empty before the first score.")
