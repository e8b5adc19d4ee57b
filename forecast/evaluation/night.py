"""The record of a night: the compared models, their data and the verdict. It suffices to repeat the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import ClassVar

from pydantic import ConfigDict, Field

from forecast.config.training import PromotionPolicy
from forecast.evaluation.promotion import Verdict, best, decide
from forecast.evaluation.scores import Evidence
from forecast.strict import StrictModel


class NightRecord(StrictModel):
    """Result of one night."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    renamed_fields: ClassVar[Mapping[str, str]] = MappingProxyType({"incumbent": "champion_evidence"})

    dataset: str
    recorded_at: datetime
    data_version: int
    data_digest: str
    holdout_from: datetime
    holdout_until: datetime
    origins: int
    """Number of distinct forecast origins; the windows of neighbouring origins overlap."""
    candidates: tuple[Evidence, ...]
    """Evidence of the models that this night trained."""
    champion_evidence: Evidence | None
    """Evidence of the champion before this night, on the same windows."""
    baselines: tuple[str, ...]
    """Names of the baselines, which other models should beat."""
    policy: PromotionPolicy
    unfit: str
    """Why the champion before this night could not be scored; empty if it was, or if there was none."""
    verdict: Verdict
    champion: str | None
    """Model version of the champion after this night."""
    tracking_run: str
    tracking_experiment: str = ""
    tracking_models: dict[str, str] = Field(default_factory=dict)
    """MLflow run ids by model version; nights of earlier releases have none."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Reason by model name of each training that failed; the comparison left these models out."""

    @property
    def leaderboard(self) -> tuple[Evidence, ...]:
        """Evidence of all scored models, best first, NaN last."""
        scored = (*self.candidates, *([self.champion_evidence] if self.champion_evidence else []))
        return tuple(sorted(scored, key=lambda one: (math.isnan(one.pinball), one.pinball)))

    @property
    def best_baseline(self) -> Evidence | None:
        """The baseline with the lowest finite loss; ``None`` if there is none."""
        baselines = [one for one in self.candidates if one.model_name in self.baselines and math.isfinite(one.pinball)]
        return min(baselines, key=lambda one: one.pinball, default=None)

    @property
    def beaten(self) -> tuple[Evidence, ...]:
        """The models that the best baseline beats, or whose loss is NaN."""
        bar = self.best_baseline
        others = (one for one in self.leaderboard if one.model_name not in self.baselines)
        return () if bar is None else tuple(one for one in others if not one.pinball < bar.pinball)

    def display_name(self, one: Evidence) -> str:
        """Return the name of a model; its version if the night compared two models of that name."""
        alike = [other for other in self.leaderboard if other.model_name == one.model_name]
        return one.model_name if len(alike) == 1 else one.model_version

    def decide_again(self) -> Verdict:
        """Repeat the decision from the stored evidence; it differs from ``verdict`` only if either was changed."""
        return judge(self.candidates, self.champion_evidence, self.policy, self.unfit)


def judge(candidates: Sequence[Evidence], champion: Evidence | None, policy: PromotionPolicy, unfit: str) -> Verdict:
    """Choose the best candidate as challenger and compare it with the champion."""
    return decide(best(candidates, policy), champion, policy, unfit)
