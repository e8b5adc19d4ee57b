"""The histories of the measurement, each with its config."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.config.file import load_config_file
from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.panel import Panel
from pipelines.ingestion.ingest import ingest
from pipelines.preparation.clean import clean

JOBS = Path(__file__).parent / "jobs.toml"
MADE = "stationary"
_STEPS = 2 * 365 * 24


class NotHereError(Exception):
    """The file of the data set does not exist on this machine."""


@dataclass(frozen=True, slots=True)
class History:
    """A data set, repaired as for training."""

    config: DatasetConfig
    panel: Panel


def read(dataset: str) -> History:
    """Read a data set of ``jobs.toml``; ETTh1 from the path in FORECAST_ETTH1.

    Raises:
        NotHereError: the file does not exist.

    """
    config = load_config_file(JOBS).datasets[dataset]
    if dataset == MADE:
        return History(config, _made())
    with tempfile.TemporaryDirectory() as home:
        shutil.copyfile(JOBS, Path(home) / "forecast.toml")
        installation = Installation.open(Path(home))
        try:
            ingest(installation.dataset(dataset))
        except ForecastError as error:
            raise NotHereError(str(error)) from error
        return History(config, clean(installation.dataset(dataset).observations.read(), config))


def _made() -> Panel:
    """Generate a stationary history."""
    random = np.random.default_rng(0)
    hour = np.arange(_STEPS)
    noise = random.normal(size=(2, _STEPS, 2))
    for step in range(1, _STEPS):
        noise[:, step] += 0.9 * noise[:, step - 1]
    pattern = 3 * np.sin(2 * np.pi * (hour[:, None] + np.asarray([0, 4])) / 24)
    values = 10 + pattern + np.stack([noise[..., 0], np.exp(noise[..., 1] / 4)], axis=-1)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    observed = np.ones(values.shape, bool)
    return Panel(("east", "west"), start, timedelta(hours=1), values, np.empty((2, _STEPS, 0)), observed, {})
