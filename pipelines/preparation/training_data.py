"""Training data: the cleaned rows of a data set, their split in time, and the scaler."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.errors import UnavailableError
from forecast.installation import Dataset
from forecast.panel import Panel
from forecast.runtime.scaler import Scaler
from pipelines.preparation.clean import clean
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.slices import Slices

_DECIDING = ("max_epochs", "batch_size", "budget", "patience", "seed", "stride", "precision")
"""Fields of ``training`` that a fitted model depends on."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """One version of a data set, ready for training."""

    name: str
    config: DatasetConfig
    panel: Panel
    """The series that have enough rows to fit on."""
    slices: Slices
    scaler: Scaler
    """Fitted on the fit slice."""
    version: int
    """Version of the table of observations."""
    digest: str
    """SHA-256 of the cleaned values."""

    @property
    def terms(self) -> str:
        """Digest of all that a loss depends on except the model, its options and its look-back.

        Only losses with equal terms are comparable.
        """
        config = self.config
        training = {name: str(getattr(config.training, name)) for name in _DECIDING}
        terms = (self.digest, config.horizon, config.quantiles, config.season, config.splits, training)
        return hashlib.sha256(repr(terms).encode()).hexdigest()

    @classmethod
    def read(cls, dataset: Dataset) -> TrainingData:
        """Read and clean the newest version; raises ``history.empty`` without rows, and as :meth:`Slices.of` does."""
        config = dataset.config
        table = dataset.observations
        if not table.exists:
            raise UnavailableError(
                "history.empty", f"{dataset.name} has no rows to train on", f'run "forecast ingest {dataset.name}"'
            )
        version = table.version
        panel = clean(table.read(version=version), config)
        slices = Slices.of(panel, config)
        panel = trainable(panel, slices.fit, config)
        return cls(dataset.name, config, panel, slices, fit_scaler(panel, config, slices.fit), version, panel.digest)


def trainable(panel: Panel, fit: int, config: DatasetConfig) -> Panel:
    """Leave out series with too few rows to fit on, whose scale is unknown; a later training includes them."""
    parts = (values[:, :fit] for values in (panel.targets, panel.past, panel.future))
    whole = np.logical_and.reduce([np.isfinite(values).all(axis=2) for values in parts]).sum(axis=1)
    names = [name for name, rows in zip(panel.series, whole, strict=True) if rows >= config.lookback + config.horizon]
    return panel.only(names) if names else panel
