"""Sources are tested as ingest calls them: ``read`` with a job whose ``source`` a test gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from forecast.config.dataset import DatasetConfig
from forecast.config.file import ConfigFile
from forecast.errors import ForecastError
from pipelines.sources import Batch, Unreadable, read


@pytest.fixture(scope="session")
def plain_job() -> DatasetConfig:
    """Return a job that a property test can take: one fixture for all its examples."""
    document = {
        "source": {"kind": "push"},
        "frequency": "1h",
        "series": "site",
        "channels": {name: {"role": "target"} for name in ("load", "price", "wind")},
        "horizons": [1],
        "lookback": 2,
        "season": 1,
        "models": ["seasonal_naive"],
    }
    return ConfigFile.model_validate({"datasets": {"tiny": document}}).datasets["tiny"]


@pytest.fixture
def read_all(tmp_path: Path, config_with: Callable[..., DatasetConfig]) -> Callable[..., list[Batch | Unreadable]]:
    """Read a source: ``read_all({"kind": "csv", "path": "rows.csv"}, zone="Europe/Berlin")``."""

    def run(source: Mapping[str, Any], cursor: str | None = None, **fields: Any) -> list[Batch | Unreadable]:
        return list(read("tiny", config_with(source=source, **fields), tmp_path, cursor))

    return run


@pytest.fixture
def read_one(read_all: Callable[..., list[Batch | Unreadable]]) -> Callable[..., Batch]:
    """Read a source that has one batch."""

    def run(source: Mapping[str, Any], cursor: str | None = None, **fields: Any) -> Batch:
        (batch,) = read_all(source, cursor, **fields)
        assert isinstance(batch, Batch)
        return batch

    return run


@pytest.fixture
def refusal(read_all: Callable[..., list[Batch | Unreadable]]) -> Callable[..., ForecastError]:
    """Return the error that reading a source raises."""

    def run(source: Mapping[str, Any], **fields: Any) -> ForecastError:
        with pytest.raises(ForecastError) as caught:
            read_all(source, **fields)
        assert caught.value.remedy
        return caught.value

    return run
