"""Schemas of models, nights and promotions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.deprecated import WithTold
from api.schemas.forecasts import ChampionInfo

CHAMPION, PREVIOUS = "champion", "previous"
"""Names of models that a request may use instead of a version."""


class ScoredModel(BaseModel):
    """Scores of a model on the held-out windows of a night; null where a score is not finite."""

    model_name: str
    model_version: str
    windows: int
    mae: float | None
    rmse: float | None
    mase: float | None
    pinball: float | None = Field(description="Scaled pinball loss, by which models are ranked.")
    coverage: float | None
    by_horizon: dict[int, float | None] = Field(description="Pinball loss of the steps up to each horizon.")


class GuardInfo(WithTold):
    """A condition that a challenger must meet in addition to a better score."""

    name: str
    passed: bool


class NightInfo(BaseModel):
    """The comparison and the decision of one night."""

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
    failures: list[str] = Field(description="Models that failed to train; the night's log has the reasons.")
    tracking_run: str = Field(description="The night's run in MLflow.")


class ModelsOfDataset(BaseModel):
    """The models of one data set."""

    dataset: str
    champion: ChampionInfo | None
    previous: ChampionInfo | None = Field(description="The champion after a rollback.")
    challenger: str | None = Field(description="Challenger of the last night, if it was not promoted.")
    versions: list[ChampionInfo] = Field(description="Present and former champions, newest first.")
    nights: list[NightInfo] = Field(description="The latest nights, newest first.")


class AllModels(BaseModel):
    """The models of every data set."""

    models: list[ModelsOfDataset]


class PromotionRequest(BaseModel):
    """The model version to promote."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str, Field(min_length=1, max_length=64, examples=["linear-20131102T023000-f53b7c"])]


class ModelsQuery(BaseModel):
    """Parameters of model descriptions."""

    model_config = ConfigDict(extra="forbid")

    nights: Annotated[int, Field(ge=0, le=50, description="Number of nights to return.")] = 1
