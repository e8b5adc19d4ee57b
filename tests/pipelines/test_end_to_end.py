"""The whole workflow by the command line, with models of every kind, on a history that trains in seconds."""

import json
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecast.installation import Installation
from forecast.runtime.model import load
from models.catalog import ModelName

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

MODELS = (ModelName.SEASONAL_NAIVE, ModelName.LINEAR, ModelName.DLINEAR, ModelName.ITRANSFORMER)
"""Solved, wrapped and our own; the catalogue's tests train and export the others as well."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    tiny_document["datasets"]["tiny"] |= {
        "models": [str(name) for name in MODELS],
        "training": {"budget": "3s", "max_epochs": 1, "stride": 4, "batch_size": 32},
        "splits": {"validation": "4d", "calibration": "4d", "holdout": "4d"},
        "holidays": "US",
    }
    return tiny_document


def answer(result: subprocess.CompletedProcess[str]) -> Mapping[str, Any]:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_night_from_a_csv_file_to_an_issued_forecast_and_a_second_night(
    command_line: CommandLine,
    make_home: Callable[..., Installation],
    document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
) -> None:
    installation = make_home(tiny_rows(960), document)
    home = str(installation.home.path)

    assert answer(command_line("ingest", "--home", home, "--json"))["new"] == 2 * 960

    night = answer(command_line("train", "--home", home, "--json", timeout=200, FORECAST_CORES="1"))
    models = {entry["model_name"]: entry for entry in night["leaderboard"]}
    assert set(models) == {*MODELS, "nlinear"}  # a baseline that nobody named
    assert [entry["pinball"] for entry in night["leaderboard"]] == sorted(
        entry["pinball"] for entry in night["leaderboard"]
    )
    assert len({entry["origins_digest"] for entry in models.values()}) == 1
    assert len({entry["windows"] for entry in models.values()}) == 1
    assert night["verdict"]["promote"] is True
    assert night["leaderboard"][0]["model_version"] == night["champion"]
    assert all(guard["passed"] for guard in night["verdict"]["guards"])
    assert models["linear"]["pinball"] < models["seasonal_naive"]["pinball"] * 1.1
    assert all(abs(entry["coverage"] - 0.8) < 0.15 for entry in models.values())

    issued = answer(command_line("forecast", "--home", home, "--json"))
    assert issued["is_new"] is True
    issuance = installation.ledger.issuances.latest("tiny")
    assert issuance is not None
    assert issuance.forecast_id == issued["issuance"]["forecast_id"]
    assert issuance.model_version == night["champion"]
    rows = installation.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
    assert len(rows) == 2 * 2 * 24
    quantiles = np.array(rows["quantiles"].to_list())
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (quantiles[(rows["channel"] == "load").to_numpy()] >= 0).all()
    observed = installation.dataset("tiny").observations.read()
    assert quantiles[:, 1].mean() == pytest.approx(observed.select("load", "price").to_numpy().mean(), rel=0.3)

    check_tracking(installation, night)

    document["datasets"]["tiny"]["models"] = ["seasonal_naive", "linear"]
    document["datasets"]["tiny"]["training"]["baselines"] = ["seasonal_naive"]
    make_home(document=document)
    compared = answer(command_line("compare", "--home", home, "--json"))
    assert compared == night
    again = answer(command_line("train", "--home", home, "--json", timeout=200, FORECAST_CORES="1"))
    champion = installation.ledger.champions.current("tiny")
    assert champion is not None
    assert champion.model_version == again["champion"]
    assert load(installation.home.models / champion.folder).manifest.model_version == champion.model_version
    assert night["champion"] in {entry["model_version"] for entry in again["leaderboard"]}
    versions = [entry["model_version"] for entry in again["leaderboard"]]
    assert len(set(versions)) == len(versions), "a model trained anew must have a version of its own"

    document["datasets"]["tiny"]["models"] = ["seasonal_naive", "itransfomer"]
    make_home(document=document)
    runs = count_runs(installation.home.path)
    typo = command_line("train", "--home", home, timeout=200)
    assert typo.returncode == 2
    assert 'did you mean "itransformer"' in typo.stderr
    assert count_runs(installation.home.path) == runs, "a misspelt model must be told before the others are trained"


def count_runs(home: Path) -> int:
    with sqlite3.connect(home / "mlflow.db") as connection:
        return int(connection.execute("select count(*) from runs").fetchone()[0])


def check_tracking(installation: Installation, night: Mapping[str, Any]) -> None:
    """Read the runs in MLflow, as a user would who compares models in its UI."""
    from mlflow import MlflowClient

    client = MlflowClient(installation.home.tracking_uri, installation.home.tracking_uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["model_name"]: run for run in runs if run is not parent}
    assert parent.info.run_id == night["tracking_run"]
    assert parent.data.tags["verdict"] == night["verdict"]["sentence"]
    assert set(children) == {*MODELS, "nlinear"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}

    for tag in ("data_version", "data_digest", "origins_digest", "code_version"):
        assert {run.data.tags[tag] for run in children.values()} == {parent.data.tags[tag]}
    for entry in night["leaderboard"]:
        logged = children[entry["model_name"]].data
        assert logged.metrics["accuracy/pinball"] == pytest.approx(entry["pinball"])
        for horizon in ("6", "24"):
            assert logged.metrics[f"accuracy_by_horizon/mae.h{horizon}"] == entry["by_horizon"][horizon]["mae"]
        assert logged.params["lookback"] == "48"
        curve = client.get_metric_history(children[entry["model_name"]].info.run_id, "accuracy_by_lead/pinball")
        assert [point.step for point in sorted(curve, key=lambda point: point.step)] == list(range(1, 25))

    version = client.get_model_version_by_alias("tiny", "champion")
    winner = children[night["leaderboard"][0]["model_name"]]
    assert version.run_id == winner.info.run_id
    assert version.tags["model_version"] == night["champion"]
    for name, run in children.items():
        assert run.outputs is not None
        names = {client.get_logged_model(output.model_id).name for output in run.outputs.model_outputs}
        assert names == {name, f"{name}-onnx", f"{name}-darts"}
        assert {"figures", "scores.json"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
