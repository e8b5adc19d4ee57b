"""Shared inputs of a night: data, holdout and champion, and the tasks for its models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from forecast.evaluation.scores import Evidence, Yardstick
from forecast.installation import Dataset
from forecast.ledger.champions import Champion
from forecast.panel import Panel
from forecast.runtime.manifest import NETWORK, evaluated_in
from forecast.runtime.model import ServedModel, load_evaluated
from forecast.runtime.smoke_test import smoke_test
from pipelines.forecasting.inputs import fits
from pipelines.preparation.slices import Slices
from pipelines.preparation.training_data import TrainingData
from pipelines.preparation.windows import Windows, cut
from pipelines.training.backtest import evidence_of
from pipelines.training.candidates import Start, Task, start_from
from pipelines.training.fit import check_models


@dataclass(frozen=True, slots=True)
class RetrainContext:
    """One state of the data, the windows that every model is scored on, and the champion to beat."""

    dataset: Dataset
    data: TrainingData
    first: int
    """Row from which the targets of the holdout lie."""
    holdout: Windows
    yardstick: Yardstick
    now: datetime
    champion: Champion | None
    champion_model: ServedModel | None
    """The champion's network, if it can be scored on the same windows as the candidates."""
    unfit: str
    """Reason why the champion cannot be scored; empty if it can, or without a champion."""

    @classmethod
    def read(cls, dataset: Dataset) -> Self:
        """Read the newest rows and cut the holdout after everything that the champion was fitted on."""
        check_models(dataset.config)
        data = TrainingData.read(dataset)
        champion_model, unfit = comparable_champion(dataset, data.config, data.panel, data.slices)
        first = data.slices.calibration
        if champion_model is not None:
            first = max(first, data.panel.index(champion_model.manifest.fitted_until))
        return cls(
            dataset=dataset,
            data=data,
            first=first,
            holdout=cut(data.panel, data.config, first, data.slices.holdout),
            yardstick=Yardstick.fit(data.panel, data.scaler, data.config.season, data.slices.fit),
            now=dataset.clock.now(),
            champion=dataset.champion,
            champion_model=champion_model,
            unfit=unfit,
        )

    @property
    def config(self) -> DatasetConfig:
        """The data set's config."""
        return self.data.config

    @property
    def panel(self) -> Panel:
        """The cleaned rows."""
        return self.data.panel

    @property
    def models(self) -> Path:
        """The folder of exported models."""
        return self.dataset.home.models

    @property
    def checkpoints(self) -> Path:
        """The folder from which an interrupted night resumes."""
        return self.dataset.home.checkpoints / self.dataset.name

    def task(self, model_name: str) -> Task:
        """Return the task to train and score one model; it starts from the champion's weights if they fit."""
        data, champion = self.data, self.champion
        start: Start | None = None
        if champion is not None and self.champion_model is not None and champion.model_name == model_name:
            start = start_from(self.models / champion.folder)
        return Task(
            dataset=data.name, config=data.config, panel=data.panel, slices=data.slices, model_name=model_name,
            data_version=data.version, data_digest=data.digest, now=self.now,
            holdout=(self.first, data.slices.holdout), yardstick=self.yardstick, champion=start,
            checkpoints=self.checkpoints,
        )  # fmt: skip

    def champion_evidence(self) -> Evidence | None:
        """Score the champion on the holdout, under the version that it serves as."""
        if self.champion is None or self.champion_model is None:
            return None
        tested = smoke_test(self.champion_model, evaluated_in(self.models / self.champion.folder) / NETWORK)
        evidence = evidence_of(self.champion_model, self.holdout, self.yardstick, self.config, tested)
        return evidence.model_copy(update={"model_version": self.champion.model_version})


def comparable_champion(
    dataset: Dataset, config: DatasetConfig, panel: Panel, slices: Slices
) -> tuple[ServedModel | None, str]:
    """Return the champion's network if it can be scored beside candidates of this config, else the reason.

    If the champion was refitted on all rows, the network before the refit is returned.
    """
    champion = dataset.champion
    if champion is None:
        return None, ""
    try:
        model = load_evaluated(dataset.home.models / champion.folder, champion.digest)
    except ForecastError as error:
        return None, f"{champion.model_version} cannot be loaded ({error.fact})"
    manifest = model.manifest
    trained_for = (manifest.lookback, manifest.horizon, manifest.quantiles)
    if trained_for != (config.lookback, config.horizon, config.quantiles) or not fits(manifest, config):
        return None, f"{champion.model_version} was trained for other channels, quantiles, look-back or horizon"
    unseen = sorted(set(panel.series) - set(manifest.scaler.targets))
    if unseen:
        return None, f"{champion.model_version} was not trained on series {', '.join(unseen)}"
    if panel.index(manifest.fitted_until) > slices.holdout - config.horizon:
        return None, f"{champion.model_version} was trained on the rows that it would be compared on"
    return model, ""
