"""A home with three data sets, one trained and exported network, and a forecast of each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

CHANNELS = tuple(f"channel_{number}" for number in range(7))
DATASETS = ("bench", "east", "west")
ROWS, STEPS = 2_500, 96
START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 8
"""Number of different hours in which the histories of requests end."""
JOB = """
[datasets.{dataset}]
frequency = "1h"
series = ""
horizons = [96]
lookback = 96
season = 24
models = ["itransformer"]
source = {{ kind = "csv", path = "rows.csv" }}
splits = {{ validation = "10d", calibration = "10d", holdout = "10d" }}
training = {{ max_epochs = 1, stride = 7, baselines = [] }}
[datasets.{dataset}.channels]
"""


def make_home(folder: Path) -> None:
    """Write rows, train and export a network, make it champion of every data set, and issue its forecasts."""
    import polars as pl

    from forecast.installation import Installation
    from forecast.ledger.champions import Champion
    from forecast.runtime.manifest import manifest_digest
    from pipelines.forecasting.issue import issue
    from pipelines.ingestion.ingest import ingest
    from pipelines.preparation.clean import clean
    from pipelines.preparation.darts_series import fit_scaler
    from pipelines.preparation.slices import Slices
    from pipelines.preparation.windows import cut
    from pipelines.training.export import export, manifest_fields
    from pipelines.training.fit import fit

    folder.mkdir(parents=True)
    lines = "".join(f'{name} = {{ role = "target" }}\n' for name in CHANNELS)
    (folder / "forecast.toml").write_text("".join(JOB.format(dataset=name) + lines for name in DATASETS), "utf-8")
    random, hours = np.random.default_rng(0), np.arange(ROWS)
    values = {name: 50 + 10 * np.sin((hours + 3 * at) / 12 * np.pi) + random.normal(0, 2, ROWS)
              for at, name in enumerate(CHANNELS)}  # fmt: skip
    times = [(START + timedelta(hours=int(hour))).strftime("%Y-%m-%d %H:%M:%S") for hour in hours]
    pl.DataFrame({"time": times, **values}).write_csv(folder / "rows.csv")
    installation = Installation.open(folder)
    fitted = None
    for dataset in DATASETS:
        config = installation.config.datasets[dataset]
        ingest(installation.dataset(dataset))
        panel = clean(installation.dataset(dataset).observations.read(), config)
        slices = Slices.of(panel, config)
        scaler = fit_scaler(panel, config, slices.fit)
        fitted = fitted or fit(config, panel, slices, scaler, "itransformer")  # their rows are the same
        version = f"{dataset}-itransformer"
        manifest = manifest_fields(
            config, scaler, dataset=dataset, model_name="itransformer", model_version=version, trained_at=START,
            data_version=0, data_digest="", fitted_until=panel.time(slices.calibration),
        )  # fmt: skip
        place = installation.home.models / version
        export(fitted.model, place, manifest, cut(panel, config, slices.validation, slices.calibration))
        champion = Champion(dataset, "itransformer", version, version, manifest_digest(place), START, "made here")
        installation.ledger.champions.promote(champion)
        issue(installation.dataset(dataset))


def make_key(folder: Path) -> str:
    """Create a read key, and return its secret."""
    from forecast.installation import Installation
    from forecast.ledger.keys import Key, Scope, mint

    key_id, text, digest = mint()
    now = datetime.now(UTC)
    Installation.open(folder).ledger.keys.add(Key(key_id, "benchmark", digest, Scope.READ, (), now, None))
    return text


def network(folder: Path) -> Path:
    """Return the path of the served ONNX file."""
    return folder / "models" / f"{DATASETS[0]}-itransformer" / "model.onnx"


def bodies(count: int = 64) -> list[bytes]:
    """Return bodies of forecast requests; they differ in their values and end in one of a few hours."""
    random = np.random.default_rng(1)
    made = []
    for number in range(count):
        values = {name: random.normal(50, 10, STEPS).round(3).tolist() for name in CHANNELS}
        history = {"start": (START + timedelta(hours=number % HOURS)).isoformat(), "series": {DATASETS[0]: values}}
        made.append(json.dumps({"dataset": DATASETS[0], "history": history}).encode())
    return made


def tensors(count: int = 64) -> list[bytes]:
    """Return the same histories as inputs of the bare network, for ``mlflow models serve``."""
    random = np.random.default_rng(1)
    made = []
    for _ in range(count):
        values = np.stack([random.normal(50, 10, STEPS).round(3) for _ in CHANNELS], axis=-1)
        calendar = np.zeros((1, STEPS, 8)).tolist()
        inputs = {
            "past_target": [values.tolist()],
            "historic_future_covariates": calendar,
            "future_covariates": calendar,
        }
        made.append(json.dumps({"inputs": inputs}).encode())
    return made
