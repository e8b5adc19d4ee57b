"""Schemas of models, nights and promotions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.forecasts import ChampionInfo

CHAMPION, PREVIOUS = "champion", "previous"
"""Names of models that a request may use instead of a version."""


class ScoredModel(BaseModel):
    """How a model did on the held-out windows of a night; null where a score is not finite."""

    model_name: str
    model_version: str
    windows: int
    mae: float | None
    rmse: float | None
    mase: float | None
    pinball: float | None = Field(description="Scaled; models are ranked by it.")
    coverage: float | None
    by_horizon: dict[int, float | None] = Field(description="Pinball loss of the steps up to each horizon.")


class GuardInfo(BaseModel):
    """A condition that a challenger must meet."""

    name: str
    passed: bool
    message: str


class NightInfo(BaseModel):
    """What a night compared and decided."""

    recorded_at: datetime
    data_version: int
    holdout_from: datetime
    holdout_until: datetime
    origins: int
    challenger: str
    promoted: bool
    gain: float | None = Field(description="Relative gain in pinball loss over the champion; null without one.")
    why: str
    guards: list[GuardInfo]
    leaderboard: list[ScoredModel] = Field(description="Best first.")
    failures: list[str] = Field(description="Models that could not be trained; the night's log says why.")
    tracking_run: str = Field(description="Run in MLflow.")


class ModelsOfDataset(BaseModel):
    """The models of one data set."""

    dataset: str
    champion: ChampionInfo | None
    previous: ChampionInfo | None = Field(description="Where a rollback would lead.")
    challenger: str | None = Field(description="Of the last night, if it was not promoted.")
    versions: list[ChampionInfo] = Field(description="Who is and was champion, newest first.")
    nights: list[NightInfo] = Field(description="The last ones, newest first.")


class AllModels(BaseModel):
    """The models of every data set."""

    models: list[ModelsOfDataset]


class PromotionRequest(BaseModel):
    """Which model becomes champion."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str, Field(min_length=1, max_length=64, examples=["linear-20131102T023000-f53b7c"])]


class ModelsQuery(BaseModel):
    """How much is told."""

    model_config = ConfigDict(extra="forbid")

    nights: Annotated[int, Field(ge=0, le=50, description="How many nights are told.")] = 1
