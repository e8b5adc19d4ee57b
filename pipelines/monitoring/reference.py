"""Statistics of a model's training data, for scoring and drift: computed once per model, stored in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError, NotFoundError
from forecast.evaluation.metrics import observed_mean
from forecast.evaluation.scores import Evidence
from forecast.installation import Dataset
from forecast.ledger.issuances import Issued
from forecast.monitoring.reference import Holdout, Reference, Spread
from forecast.panel import Array, Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import load
from pipelines.forecasting.correct import window
from pipelines.preparation.clean import clean

_NIGHTS = 30
_LOG = logging.getLogger(__name__)


class ReferenceStore:
    """Reference statistics of each model of a data set, cached in memory and in the ledger."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: dict[str, Reference | None] = {}

    def is_known(self, issued: Issued) -> bool:
        """Whether a forecast can be scored; not if the files of its model vanished before its first score."""
        version = issued.model_version
        if version not in self._known:
            try:
                self._known[version] = self._find(issued)
            except ForecastError as error:
                _LOG.warning("forecasts of %s with %s cannot be scored: %s", self._dataset.name, version, error)
                self._known[version] = None
        return self._known[version] is not None

    def of(self, issued: Issued) -> Reference:
        """Return the reference of a forecast's model."""
        found = self._known[issued.model_version] if self.is_known(issued) else None
        if found is None:
            message = f"the training data of {issued.model_version} is unknown"
            raise NotFoundError("model.not_found", message, f'run "forecast train {self._dataset.name}"')
        return found

    def _find(self, issued: Issued) -> Reference:
        ledger, version = self._dataset.ledger, issued.model_version
        kept = ledger.references.get(self._dataset.name, version)
        if kept is None:
            kept = self._compute(issued)
            ledger.references.add(self._dataset.name, version, kept)
        return kept

    def _compute(self, issued: Issued) -> Reference:
        config = self._dataset.config
        digest = self._dataset.ledger.champions.digest(self._dataset.name, issued.model_folder)
        manifest = load(self._dataset.home.models / issued.model_folder, digest).manifest
        table = self._dataset.observations
        try:
            rows = table.read(version=manifest.data_version)  # the rows that the model was trained on
        except ForecastError:
            rows = table.read()
        panel = clean(rows, config)
        moments = moments_of(manifest)
        last = min(max(panel.index(manifest.fitted_until), 0), panel.steps)
        scaled = {channel: values[:, :last] for channel, values in inputs(panel, config, moments).items()}
        spreads = {channel: Spread.of(values, window(config)) for channel, values in scaled.items()}
        return Reference(
            moments=moments,
            naive_errors={
                channel: {
                    series: _naive_error(scaled[channel][number], config.season) * moments[channel][series][1]
                    for number, series in enumerate(panel.series)
                    if series in moments[channel]
                }
                for channel in config.targets
                if channel in scaled
            },
            spreads={channel: spread for channel, spread in spreads.items() if spread is not None},
            holdout=self._holdout(issued.model_version),
        )

    def _holdout(self, version: str) -> Holdout | None:
        """Return a model's holdout scores: of its promotion, or else of the latest night that kept it as champion."""
        kept = None
        for night in self._dataset.ledger.nights.latest(self._dataset.name, _NIGHTS):
            if night.champion != version:
                continue
            if night.verdict.promote:  # a refitted model was scored under the challenger's version
                scored = [one for one in night.candidates if one.model_version == night.verdict.challenger]
                return _holdout_of(scored[0])
            kept = kept or night.champion_evidence
        return None if kept is None else _holdout_of(kept)


def moments_of(manifest: Manifest) -> dict[str, dict[str, tuple[float, float]]]:
    """Return a model's means and standard deviations of targets and past covariates, by channel and series."""
    scaler = manifest.scaler
    return {
        channel: {series: (means[place], deviations[place]) for series, (means, deviations) in moments.items()}
        for channels, moments in ((manifest.targets, scaler.targets), (manifest.past, scaler.past))
        for place, channel in enumerate(channels)
    }


def inputs(
    panel: Panel, config: DatasetConfig, moments: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[str, Array]:
    """Return by channel the scaled observed values [S, T] of targets and past covariates; NaN for filled ones.

    Channels without moments are left out; series without moments are NaN.
    """
    scaled = {}
    parts = ((config.targets, panel.targets, panel.observed), (config.past_covariates, panel.past, panel.past_observed))
    for channels, values, observed in parts:
        for place, channel in enumerate(channels):
            if channel in moments:
                pairs = [moments[channel].get(series, (np.nan, np.nan)) for series in panel.series]
                means, deviations = np.asarray(pairs, dtype=float).reshape(-1, 2).T
                seen = np.where(observed[..., place], values[..., place], np.nan)
                scaled[channel] = (seen - means[:, None]) / deviations[:, None]
    return scaled


def _naive_error(values: Array, season: int) -> float:
    """Return the mean absolute error of repeating the last season; NaN if it is zero or undefined."""
    error = observed_mean(np.abs(values[season:] - values[:-season]))
    return error if error > 0 else float("nan")


def _holdout_of(evidence: Evidence) -> Holdout:
    return Holdout(
        loss_by_channel={channel: one.pinball for channel, one in evidence.by_channel.items()},
        losses_by_group=dict(zip(evidence.group_ends, evidence.group_losses, strict=True)),
    )
