"""A night: the models that were compared, on what, and what was decided; kept so that it can be decided again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from pydantic import ConfigDict, Field

from forecast.config.training import PromotionPolicy
from forecast.evaluation.promotion import Verdict, best, decide
from forecast.evaluation.scores import Evidence
from forecast.strict import StrictModel


class NightRecord(StrictModel):
    """What came of one night."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    dataset: str
    recorded_at: datetime
    data_version: int
    data_digest: str
    holdout_from: datetime
    holdout_until: datetime
    origins: int
    """Distinct times that forecasts were made at; windows of neighbouring ones overlap."""
    candidates: tuple[Evidence, ...]
    """The models that were trained."""
    incumbent: Evidence | None
    """The champion of an earlier night, on the same windows."""
    baselines: tuple[str, ...]
    """Names of the models that others should beat."""
    policy: PromotionPolicy
    unfit: str
    """Why a champion that there was could not be scored."""
    verdict: Verdict
    champion: str | None
    """Model version that is champion now."""
    tracking_run: str
    tracking_experiment: str = ""
    tracking_models: dict[str, str] = Field(default_factory=dict)
    """Runs in MLflow by model version; none of a night of an earlier release."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Models that could not be trained, and why; the others were compared without them."""

    @property
    def leaderboard(self) -> tuple[Evidence, ...]:
        """Every model that was scored, best first."""
        scored = (*self.candidates, *([self.incumbent] if self.incumbent else []))
        return tuple(sorted(scored, key=lambda one: (one.pinball != one.pinball, one.pinball)))  # NaN last

    @property
    def best_baseline(self) -> Evidence | None:
        """The baseline of this night that the others should beat."""
        baselines = [one for one in self.candidates if one.model_name in self.baselines and math.isfinite(one.pinball)]
        return min(baselines, key=lambda one: one.pinball, default=None)

    @property
    def beaten(self) -> tuple[Evidence, ...]:
        """The models that the best baseline beats, or whose loss is no number."""
        bar = self.best_baseline
        others = (one for one in self.leaderboard if one.model_name not in self.baselines)
        return () if bar is None else tuple(one for one in others if not one.pinball < bar.pinball)

    def called(self, one: Evidence) -> str:
        """Name a model as people do; by its version, where another of that name was compared too."""
        alike = [other for other in self.leaderboard if other.model_name == one.model_name]
        return one.model_name if len(alike) == 1 else one.model_version

    def decided_again(self) -> Verdict:
        """Decide from what is stored: the same verdict, or somebody changed one or the other."""
        return judged(self.candidates, self.incumbent, self.policy, self.unfit)


def judged(candidates: Sequence[Evidence], incumbent: Evidence | None, policy: PromotionPolicy, unfit: str) -> Verdict:
    """Let the best candidate meet the champion."""
    return decide(best(candidates, policy), incumbent, policy, unfit)
