from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from forecast.home import Home


@pytest.fixture
def local(tmp_path: Path, tracking_database: Path) -> Home:
    shutil.copyfile(tracking_database, tmp_path / "mlflow.db")
    return Home(tmp_path)


@pytest.fixture
def dataset(request: pytest.FixtureRequest) -> str:
    """A data set of the test's own."""
    return f"tiny-{abs(hash(request.node.name)):x}"


@pytest.fixture
def runs() -> Callable[[Home, str], dict[str, Any]]:
    """Return all runs of a data set by name, as MLflow has them."""

    def find(home: Home, dataset: str) -> dict[str, Any]:
        client = MlflowClient(home.tracking_uri, home.tracking_uri)
        experiment = client.get_experiment_by_name(dataset)
        assert experiment is not None
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    return find
