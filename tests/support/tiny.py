"""The tiny data set: its config, its rows, homes on disk.

It has two series (``east``, ``west``), two targets (``load``, never negative, and ``price``) and one past covariate
(``wind``), hourly in UTC.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import polars as pl

    from forecast.config.dataset import DatasetConfig
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


SERIES = ("east", "west")


TINY_CONFIG: Mapping[str, Any] = {
    "source": {"kind": "csv", "path": "rows.csv"},
    "frequency": "1h",
    "series": "site",
    "channels": {
        "load": {"role": "target", "unit": "MW", "lower": 0},
        "price": {"role": "target", "unit": "EUR/MWh"},
        "wind": {"role": "past", "unit": "m/s"},
    },
    "horizons": [6, 24],
    "lookback": 48,
    "season": 24,
    "models": ["seasonal_naive"],
    "splits": {"validation": "3d", "calibration": "3d", "holdout": "3d"},
}


@pytest.fixture
def tiny_document() -> dict[str, Any]:
    """The job file of the tiny data set as a dictionary that a test may change."""
    return {"datasets": {"tiny": copy.deepcopy(dict(TINY_CONFIG))}}


@pytest.fixture
def tiny_config(tiny_document: dict[str, Any]) -> DatasetConfig:
    from forecast.config.file import ConfigFile

    return ConfigFile.model_validate(tiny_document).datasets["tiny"]


@pytest.fixture
def config_with() -> Callable[..., DatasetConfig]:
    """Make a tiny job with some fields replaced: ``config_with(zone="Europe/Berlin")``."""
    from forecast.config.file import ConfigFile

    def make(**fields: Any) -> DatasetConfig:
        document = {"datasets": {"tiny": copy.deepcopy(dict(TINY_CONFIG)) | fields}}
        return ConfigFile.model_validate(document).datasets["tiny"]

    return make


@pytest.fixture
def to_toml() -> Callable[[Mapping[str, Any]], str]:
    """Write a dictionary as TOML: tables for dictionaries, TOML's own literals for the rest."""
    return _toml


def _toml(document: Mapping[str, Any], place: tuple[str, ...] = ()) -> str:
    plain = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in document.items() if isinstance(value, Mapping)}
    head = [f"[{'.'.join(json.dumps(part) for part in place)}]"] if place else []
    lines = head + [f"{json.dumps(key)} = {_literal(value)}" for key, value in plain.items()]
    return "\n".join(lines) + "\n" + "".join(_toml(table, (*place, key)) for key, table in tables.items())


def _literal(value: object) -> str:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)  # nan and inf are TOML's words too
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if isinstance(value, Mapping):  # within a list
        return f"{{{', '.join(f'{json.dumps(key)} = {_literal(item)}' for key, item in value.items())}}}"
    return json.dumps(value)


@pytest.fixture
def tiny_rows() -> Callable[..., pl.DataFrame]:
    """Make raw rows of the tiny data set, as a source gives them: wall times without a zone, each series whole."""
    import numpy as np
    import polars as pl

    def make(hours: int = 400, start: datetime = EPOCH, series: Sequence[str] = SERIES, seed: int = 0) -> pl.DataFrame:
        random = np.random.default_rng(seed)
        first, hour = start.replace(tzinfo=None), np.arange(hours)
        frames = [
            pl.DataFrame(
                {
                    "time": pl.Series([first + timedelta(hours=int(h)) for h in hour], dtype=pl.Datetime("us")),
                    "site": [name] * hours,
                    "load": 50 + 10 * number + 20 * np.sin(2 * np.pi * hour / 24) + random.normal(0, 3, hours),
                    "price": 30 + 5 * np.cos(2 * np.pi * hour / 24) + random.normal(0, 1, hours),
                    "wind": random.gamma(2.0, 3.0, hours),
                }
            )
            for number, name in enumerate(series)
        ]
        return pl.concat(frames)

    return make


@pytest.fixture
def make_home(tmp_path: Path, tiny_document: dict[str, Any]) -> Iterator[Callable[..., Installation]]:
    """Make homes on disk with a job file and, if given, rows; their databases are closed at the end."""
    from forecast.installation import Installation

    opened: list[Installation] = []

    def make(
        rows: pl.DataFrame | None = None, document: Mapping[str, Any] | None = None, folder: Path | None = None
    ) -> Installation:
        home = folder or tmp_path / "home"
        home.mkdir(parents=True, exist_ok=True)
        (home / "forecast.toml").write_text(_toml(document or tiny_document), encoding="utf-8")
        if rows is not None:
            rows.write_csv(home / "rows.csv")
        opened.append(Installation.open(home))
        return opened[-1]

    yield make
    for installation in opened:
        installation.ledger._database._engine.dispose()


@pytest.fixture
def tiny_home(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame], crown: Callable[..., Manifest]
) -> Installation:
    """A home whose rows are ingested and whose champion repeats the last value."""
    from pipelines.ingestion.ingest import ingest

    installation = make_home(tiny_rows())
    ingest(installation.dataset("tiny"))
    crown(installation)
    return installation
