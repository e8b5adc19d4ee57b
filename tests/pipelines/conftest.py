from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

if TYPE_CHECKING:
    from forecast.config.dataset import DatasetConfig
    from forecast.panel import Panel
    from forecast.runtime.model import ServedModel
    from pipelines.training.candidates import Task


@pytest.fixture(scope="session")
def train_model() -> Callable[[DatasetConfig, Panel, str, Path], ServedModel]:
    """Fit a model on a panel, export it to a folder, and load it as the service does."""
    from forecast.runtime.model import load
    from pipelines.preparation.darts_series import fit_scaler
    from pipelines.preparation.slices import Slices
    from pipelines.preparation.windows import cut
    from pipelines.training.export import export, manifest_fields
    from pipelines.training.fit import fit

    def train(config: DatasetConfig, panel: Panel, name: str, folder: Path) -> ServedModel:
        slices = Slices.of(panel, config)
        scaler = fit_scaler(panel, config, slices.fit)
        fitted = fit(config, panel, slices, scaler, name)
        message = manifest_fields(
            config, scaler, dataset="tiny", model_name=name, model_version=folder.name, trained_at=panel.start,
            data_version=0, data_digest="", fitted_until=panel.time(slices.calibration),
        )  # fmt: skip
        export(fitted.model, folder, message, cut(panel, config, slices.validation, slices.calibration))
        return load(folder)

    return train


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Task]:
    """Return a task of a night: train and score one model on a panel."""
    from forecast.evaluation.scores import Yardstick
    from pipelines.preparation.darts_series import fit_scaler
    from pipelines.preparation.slices import Slices
    from pipelines.training.candidates import Task

    def make(config: DatasetConfig, panel: Panel, name: str, **changes: Any) -> Task:
        slices = Slices.of(panel, config)
        yardstick = Yardstick.fit(panel, fit_scaler(panel, config, slices.fit), config.season, slices.fit)
        fields: dict[str, Any] = {
            "dataset": "tiny", "config": config, "panel": panel, "slices": slices, "model_name": name,
            "data_version": 0,
            "data_digest": "", "now": panel.end, "holdout": (slices.calibration, slices.holdout),
            "yardstick": yardstick, "champion": None, "checkpoints": tmp_path / "checkpoints",
        }  # fmt: skip
        return Task(**fields | changes)

    return make


@pytest.fixture
def tiny_panel(tiny_rows: Callable[..., pl.DataFrame]) -> Callable[..., Panel]:
    """Return the cleaned history of the tiny data set."""
    from forecast.lake.schemas import TIME
    from pipelines.preparation.clean import clean

    def make(config: DatasetConfig, hours: int = 400, seed: int = 0) -> Panel:
        rows = tiny_rows(hours, seed=seed).rename({"site": "series"})
        return clean(rows.with_columns(pl.col("time").dt.replace_time_zone("UTC").cast(TIME)), config)

    return make


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, which takes seconds to make: tests copy it into their homes."""
    import mlflow

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
