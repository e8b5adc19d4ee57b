from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from forecast.home import Home
from forecast.panel import Panel
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import ServedModel, load
from forecast.scheduling.supervisor import Member, Supervisor
from forecast.tracking.registry import Registry
from pipelines.preparation.windows import cut
from pipelines.tracking import mlflow_pyfunc
from pipelines.tracking.mlflow_model import application, rows_before

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def config(config_with: Callable[..., DatasetConfig]) -> DatasetConfig:
    secret = {"kind": "sql", "url": "postgresql://me:hunter2@db/rows", "query": "select 1"}
    return config_with(zone="Europe/Berlin", source=secret)


@pytest.fixture
def panel(config: DatasetConfig, tiny_panel: Callable[..., Panel]) -> Panel:
    return tiny_panel(config)


@pytest.fixture
def folder(config: DatasetConfig, store_model: Callable[..., Manifest], tmp_path: Path) -> Path:
    """A model that is no mere repetition: it reads the past covariate and the calendar."""
    store_model(tmp_path / "repeat_last-1", config, weight=0.5)
    return tmp_path / "repeat_last-1"


@pytest.fixture
def answers(folder: Path, config: DatasetConfig, panel: Panel) -> Iterator[Any]:
    with application(folder, config, rows_before(panel, config, 0, panel.steps)) as packed:
        yield mlflow_pyfunc._load_pyfunc(str(packed.data))


def expected(model: ServedModel, panel: Panel, config: DatasetConfig, origin: int) -> pd.DataFrame:
    """What the service forecasts for all series from a row on."""
    windows = cut(panel, config, origin, origin + config.horizon)
    forecast = model.predict(windows.targets, windows.past, windows.future, windows.series)
    frames = [
        pd.DataFrame({
            "series": series, "channel": channel, "lead": range(1, config.horizon + 1),
            "mean": forecast.mean[s, :, c], **{f"quantile_{level:g}": forecast.quantiles[s, :, c, q]
                                               for q, level in enumerate(config.quantiles)},
        })
        for s, series in enumerate(windows.series) for c, channel in enumerate(config.targets)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def agrees(answered: pd.DataFrame, wanted: pd.DataFrame) -> bool:
    """Whether a forecast has the wanted rows and numbers, whatever their order."""
    keys = ["series", "channel", "lead"]
    merged = wanted.merge(answered, on=keys, suffixes=("", "_answered"))
    numbers = [name for name in wanted.columns if name not in keys]
    return len(merged) == len(wanted) == len(answered) and all(
        np.allclose(merged[name], merged[f"{name}_answered"]) for name in numbers
    )


def both(panel: Panel, config: DatasetConfig, origin: int) -> pd.DataFrame:
    return pd.concat([rows_before(panel, config, number, origin).to_pandas() for number in range(len(panel.series))])


def test_rows_of_history_are_answered_as_the_service_would(
    answers: Any, folder: Path, panel: Panel, config: DatasetConfig
) -> None:
    origin = panel.steps - config.horizon
    given = both(panel, config, origin)
    answered = answers.predict(given)
    assert agrees(answered, expected(load(folder), panel, config, origin))
    assert answered["time"].min() == f"{panel.time(origin):%Y-%m-%dT%H:%M:%SZ}"
    assert agrees(answers.predict(given.sample(frac=1, random_state=0)), expected(load(folder), panel, config, origin))
    longer = answers.predict(given, {"horizon": 30})
    assert longer["lead"].max() == 30
    assert len(longer) == 30 * 4


def test_times_without_an_offset_are_wall_times_of_the_data_set(
    answers: Any, panel: Panel, config: DatasetConfig
) -> None:
    message = both(panel, config, 300)
    wall = message.assign(
        time=pd.to_datetime(message["time"])
        .dt.tz_convert("Europe/Berlin")
        .dt.tz_localize(None)
        .dt.strftime("%Y-%m-%d %H:%M")
    )
    pd.testing.assert_frame_equal(answers.predict(wall), answers.predict(message))


@pytest.mark.parametrize(
    ("spoilt", "code", "message"),
    [
        (lambda rows: rows.drop(columns="wind"), "forecast.no_column", "wind"),
        (lambda rows: rows.drop(columns="series"), "forecast.no_column", "series"),
        (lambda rows: rows.assign(series="north"), "forecast.unknown_series", "north"),
        (lambda rows: rows.assign(time="noon"), "forecast.malformed_time", "noon"),
        (lambda rows: rows.assign(load=float("nan")), "forecast.history_gap", "load"),
        (lambda rows: rows.iloc[:5], "forecast.short_history", "5 rows"),
        (lambda rows: rows.iloc[:0], "history.empty", "no rows"),
    ],
    ids=["channel", "series column", "series", "time", "gap", "short", "empty"],
)
def test_rows_that_cannot_be_forecast_from_are_named(
    answers: Any,
    panel: Panel,
    config: DatasetConfig,
    spoilt: Callable[[pd.DataFrame], pd.DataFrame],
    code: str,
    message: str,
) -> None:
    with pytest.raises(ForecastError, match=message) as caught:
        answers.predict(spoilt(rows_before(panel, config, 0, 300).to_pandas()))
    assert caught.value.code == code


def test_a_horizon_that_is_none_is_named(answers: Any, panel: Panel, config: DatasetConfig) -> None:
    with pytest.raises(ForecastError, match="horizon"):
        answers.predict(rows_before(panel, config, 0, 300).to_pandas(), {"horizon": -1})


def test_nothing_of_where_rows_come_from_is_packed(folder: Path, panel: Panel, config: DatasetConfig) -> None:
    with application(folder, config, rows_before(panel, config, 0, 300)) as packed:
        texts = [file.read_bytes() for file in packed.data.iterdir()]
    assert not any(b"hunter2" in text for text in texts)


@pytest.fixture
def logged(folder: Path, panel: Panel, config: DatasetConfig, tracking_database: Path) -> Path:
    """The model's folder as it comes back from MLflow."""
    home = Home(tracking_database.parent)
    with (
        Registry(home).night("packed", "night", {}) as night,
        application(folder, config, rows_before(panel, config, 1, panel.steps - config.horizon)) as packed,
    ):
        identifier = night.open("repeat_last").log_application("repeat_last", packed)
    client = MlflowClient(home.tracking_uri, home.tracking_uri)
    place = client.get_logged_model(identifier).artifact_location
    return Path(place.removeprefix("file://"))


def test_a_packed_model_runs_from_its_own_code_without_a_training_framework(logged: Path, tmp_path: Path) -> None:
    script = (
        "import sys, json, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "answer = model.predict(model.input_example)\n"
        "import pipelines, forecast\n"
        "print(json.dumps({'code': [pipelines.__path__[0], forecast.__path__[0]], 'rows': len(answer),"
        " 'loaded': sorted({name.partition('.')[0] for name in sys.modules})}))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(logged)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    assert all(Path(place).is_relative_to(logged) for place in said["code"])
    assert said["rows"] == 24 * 2
    assert not {"torch", "darts", "pytorch_lightning"} & set(said["loaded"])
    assert "cloudpickle" not in (logged / "MLmodel").read_text(encoding="utf-8")
    assert not list(logged.rglob("*.pkl"))
    assert sum(file.stat().st_size for file in logged.rglob("*")) < 2_000_000


def test_mlflow_serves_a_packed_model_over_a_socket(
    logged: Path, folder: Path, panel: Panel, config: DatasetConfig, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(logged), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def post(body: bytes) -> Any:
        request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return json.loads(response.read())["predictions"]

    # MLflow starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with Supervisor([Member("model", command, f"{url}/ping", {"PATH": path})], tmp_path) as supervisor:
        supervisor.wait_until_ready()
        answered = pd.DataFrame(post((logged / "serving_input_example.json").read_bytes()))
        wanted = expected(load(folder), panel, config, panel.steps - config.horizon)
        assert agrees(answered, wanted[wanted["series"] == "west"])
        row = {"series": "east", "time": "noon", "load": 1.0, "price": 1.0, "wind": 1.0}
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(json.dumps({"dataframe_records": [row]}).encode())
        with refused.value as answer_of_the_server:
            assert answer_of_the_server.code == 400
            assert "is not a valid time" in answer_of_the_server.read().decode()
