"""A home that the release before the packages wrote opens, serves, forecasts, trains and restores with this code."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.mlflow import load_model
from mlflow import MlflowClient
from rich.console import Console
from safetensors.torch import load_file

from api.server import listen, server
from forecast.evaluation.night import NightRecord
from forecast.installation import Installation
from forecast.ledger.migrations import HEAD, LAST_NUMBER, VERSION_TABLE
from forecast.progress import Reporter
from forecast.tracking.registry import Registry
from models.catalog import CATALOG, ModelName
from models.darts.bridge import read_checkpoint
from models.darts.former_names import FORMER_MODULES
from models.networks.nlinear import NLinearConfig, NLinearModel
from pipelines.forecasting.issue import issue
from pipelines.forecasting.recompute import recompute
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.restore import restore
from pipelines.preparation.training_data import TrainingData
from pipelines.retrain import retrain
from pipelines.training.fit import fit

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "stored" / "home-before-packages.tar.xz"
RENAMED = {"told": "message", "incumbent": "champion_evidence", "rehearsal": "smoke_test"}
PER_REQUEST = {"age", "now", "next", "alive", "hosts"}
"""Fields that depend on when they are asked for."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive holds, to be copied and not to be changed."""
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def answers(stored: Path) -> Mapping[str, Any]:
    """What the earlier release answered."""
    found: Mapping[str, Any] = json.loads((stored / "answers.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def opened(folder: Path) -> Iterator[Installation]:
    installation = Installation.open(folder)
    try:
        yield installation
    finally:
        installation.ledger.close()


@pytest.fixture
def home(stored: Path, tmp_path: Path) -> Iterator[Installation]:
    """The home as it was left, opened with the code of today; MLflow's files lie where they lay."""
    shutil.copytree(stored / "home", tmp_path / "home", ignore=shutil.ignore_patterns("mlartifacts", "mlflow.db"))
    with opened(tmp_path / "home") as installation:
        yield installation


@pytest.fixture(scope="module")
def restored(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that the code of today has made of the earlier release's backup."""
    folder = tmp_path_factory.mktemp("restored") / "home"
    restore(stored / "backup.tar", folder)
    return folder


@contextmanager
def serving(installation: Installation) -> Iterator[httpx.Client]:
    listener = listen("127.0.0.1", 0)
    one = server(installation)
    thread = threading.Thread(target=one.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            while client.get("/healthz").status_code != 200:
                assert thread.is_alive()
            yield client
    finally:
        one.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def check_same(old: Any, new: Any, place: str = "") -> None:
    """Fail where the answer of today lacks a field of the earlier one or gives it another value."""
    if isinstance(old, dict):
        assert isinstance(new, dict), place
        for name, value in old.items():
            if name not in PER_REQUEST:
                present = RENAMED.get(name, name)
                assert present in new, f"{place}.{present}"
                check_same(value, new[present], f"{place}.{present}")
    elif isinstance(old, list):
        assert isinstance(new, list), place
        assert len(old) == len(new), place
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            check_same(was, now, f"{place}[{number}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=1e-9), place
    else:
        assert old == new, place


# The ledger


def test_the_ledger_is_migrated_and_its_alert_keeps_its_words(home: Installation, answers: Mapping[str, Any]) -> None:
    (was,) = answers["alerts"]
    (alert,) = home.ledger.alerts.find("tiny")
    assert (alert.sequence, alert.kind, alert.subject) == (was["sequence"], was["kind"], was["subject"])
    assert (alert.message, alert.value, alert.limit) == (was["told"], was["value"], was["limit"])
    assert alert.raised_at == datetime.fromisoformat(was["raised_at"])
    assert alert.is_open
    with sqlite3.connect(home.home.path / "ledger.db") as connection:
        assert connection.execute("SELECT version FROM ledger_schema").fetchall() == [(LAST_NUMBER,)]
        assert connection.execute(f"SELECT version_num FROM {VERSION_TABLE.name}").fetchall() == [(HEAD,)]  # noqa: S608
        columns = [row[1] for row in connection.execute("PRAGMA table_info(alerts)")]
    assert "message" in columns
    assert "told" not in columns


def test_opening_it_again_changes_nothing(home: Installation) -> None:
    with opened(home.home.path) as again:
        assert again.ledger.alerts.find("tiny") == home.ledger.alerts.find("tiny")


def test_nights_keep_their_scores_guards_and_verdicts(home: Installation, answers: Mapping[str, Any]) -> None:
    nights = home.ledger.nights.latest("tiny", 5)
    assert [len(night.candidates) for night in nights] == [3, 2]
    for was, night in zip(answers["nights"], nights, strict=True):
        check_same(was, night.model_dump(mode="json"))
        guards = [(guard.name, guard.passed, guard.message) for guard in night.verdict.guards]
        assert guards == [(guard["name"], guard["passed"], guard["told"]) for guard in was["verdict"]["guards"]]
        assert len(guards) >= 5
    assert [night.verdict.promote for night in nights] == [False, True]
    assert nights[0].champion_evidence is not None
    assert nights[0].champion_evidence.model_version == answers["champion"]["model_version"]


def test_receipts_keep_what_was_found(home: Installation) -> None:
    receipts = home.ledger.receipts.latest("tiny")
    assert [receipt.new for receipt in receipts] == [0, 40, 40, 960]
    findings = {finding.code: finding for finding in receipts[-1].findings}
    assert set(findings) == {"ingest.out_of_range", "ingest.filled"}
    assert findings["ingest.out_of_range"].count == 1
    assert findings["ingest.out_of_range"].first == ("rows.csv row 101: east 2024-01-05 04:00:00+00:00 load=-3",)
    assert findings["ingest.out_of_range"].message.startswith("values outside the channel's bounds")


def test_runs_jobs_and_events_keep_their_documents(home: Installation, answers: Mapping[str, Any]) -> None:
    waiting, done = home.ledger.runs.find()
    assert (done.state, waiting.state) == ("succeeded", "queued")
    assert [str(step) for step in done.definition.steps] == ["ingest", "forecast"]
    assert waiting.definition == done.definition
    added = home.ledger.jobs.states()["extra"].definition
    assert added is not None
    assert ([str(step) for step in added.steps], [str(trigger) for trigger in added.on]) == (["score"], ["data"])
    assert added.retries == 3
    events = home.ledger.events.after(0)
    assert {"run", "forecast", "promotion", "alert"} <= {event.kind for event in events}
    promotion = next(event for event in events if event.kind == "promotion")
    assert promotion.document["model_version"] == answers["champion"]["model_version"]


# Serving and forecasting


def test_rest_answers_as_the_earlier_release_did(home: Installation, answers: Mapping[str, Any]) -> None:
    with serving(home) as client:
        for path, was in answers["rest"].items():
            response = client.get(path)
            assert response.status_code == 200, path
            check_same(was, response.json(), path)


def test_every_issued_forecast_is_recomputed_bit_by_bit(home: Installation) -> None:
    issued = home.ledger.issuances.newest("tiny")
    assert len(issued) == 3
    for issuance in issued:
        assert recompute(issuance.forecast_id, home).exact


def test_the_champion_forecasts_new_rows_as_the_earlier_release_did(
    home: Installation, stored: Path, answers: Mapping[str, Any]
) -> None:
    before, is_new = issue(home.dataset())
    assert not is_new
    assert before.forecast_id == answers["rest"]["/v1/datasets/tiny/forecast"]["forecast_id"]
    shutil.copyfile(stored / "rows-next.csv", home.home.path / "rows.csv")
    assert ingest(home.dataset()).new == 12
    _, is_new = issue(home.dataset())
    assert is_new
    with serving(home) as client:
        now = client.get("/v1/datasets/tiny/forecast").json()
    was = answers["next"]
    for name in ("origin", "data_version", "model_version", "horizon", "quantiles", "newest_observed"):
        assert now[name] == was[name]
    assert now["provenance"]["data_digest"] == was["provenance"]["data_digest"]
    assert len(was["forecasts"]) == 2 * 2
    check_same(was["forecasts"], now["forecasts"], "forecasts")


# The backup


def test_the_backup_is_restored_and_served(restored: Path, tmp_path: Path, answers: Mapping[str, Any]) -> None:
    shutil.copytree(restored, tmp_path / "home", ignore=shutil.ignore_patterns("mlartifacts"))
    path = "/v1/datasets/tiny/forecast"
    with opened(tmp_path / "home") as installation, serving(installation) as client:
        check_same(answers["rest"][path], client.get(path).json())
        assert [alert.message for alert in installation.ledger.alerts.find("tiny")] == [answers["alerts"][0]["told"]]


@pytest.mark.slow
def test_a_night_compares_new_models_with_the_champion_of_the_earlier_release(
    stored: Path, tmp_path: Path, answers: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECAST_CORES", "1")
    restore(stored / "backup.tar", tmp_path / "home")
    config = tmp_path / "home" / "forecast.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("max_epochs = 40", "max_epochs = 2"), encoding="utf-8")
    champion, before = answers["champion"]["model_version"], answers["nights"][0]
    with opened(tmp_path / "home") as installation:
        registry = Registry(installation.home)
        assert registry.aliases("tiny")["champion"] == champion
        night = retrain(installation.dataset(), Reporter(Console(quiet=True)))
        assert night.unfit == ""
        assert night.champion_evidence is not None
        assert night.champion_evidence.model_version == champion == night.champion
        scores = {name: value for name, value in before["incumbent"].items() if name != "rehearsal"}  # has a latency
        check_same(scores, night.champion_evidence.model_dump(mode="json"))  # the same rows are held out
        assert {one.model_name for one in night.candidates} == {"nlinear", "linear", "seasonal_naive"}
        run = client_of(installation).get_run(night.tracking_models[trained(night, "nlinear")])
        assert {"loss/best_from_warm", "loss/best_from_scratch"} <= set(run.data.metrics)
        assert "cannot be read" not in run.data.tags.get("notes", "")
        assert registry.aliases("tiny") == {"champion": champion, "challenger": night.verdict.challenger}
        assert [one.verdict.promote for one in installation.ledger.nights.latest("tiny", 5)] == [False, False, True]


def trained(night: NightRecord, model_name: str) -> str:
    return next(one.model_version for one in night.candidates if one.model_name == model_name)


def client_of(installation: Installation) -> MlflowClient:
    return MlflowClient(installation.home.tracking_uri, installation.home.tracking_uri)


# MLflow models

PYFUNC = """
import importlib.util, json, sys
from pathlib import Path
place, root, is_alone = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "alone"
if is_alone:
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != root]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if "editable" not in repr(hook).lower()]
    assert importlib.util.find_spec("forecast") is None
else:
    sys.path.insert(0, str(root))
    import forecast.installation, pipelines.forecasting.issue
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(place)
rows = json.loads(model.predict(model.input_example).to_json(orient="records"))
import forecast, pipelines
print(json.dumps({
    "rows": rows,
    "code": [forecast.__path__[0], pipelines.__path__[0]],
    "answers": type(model._model_impl).__module__,
}))
"""


@pytest.mark.parametrize(
    ("process", "answered_by"),
    [("alone", "pipelines.answer"), ("beside the product", "pipelines.tracking.mlflow_pyfunc")],
)
def test_a_pyfunc_model_answers_as_it_did(
    restored: Path, tmp_path: Path, answers: Mapping[str, Any], process: str, answered_by: str
) -> None:
    place = restored / answers["pyfunc"]["place"]
    assert "loader_module: pipelines.answer" in (place / "MLmodel").read_text(encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", PYFUNC, str(place), str(ROOT), process],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["answers"] == answered_by
    owner = place / "code" if process == "alone" else ROOT
    assert said["code"] == [str(owner / "forecast"), str(owner / "pipelines")]
    check_same(answers["pyfunc"]["rows"], said["rows"])


def test_the_darts_model_of_the_champion_is_loaded_from_mlflow(restored: Path, answers: Mapping[str, Any]) -> None:
    (artifacts,) = restored.glob(f"mlartifacts/tiny/models/{answers['logged']['nlinear-darts']}/artifacts")
    assert "models.nlinear.NLinearModel" in (artifacts / "MLmodel").read_text(encoding="utf-8")
    model = load_model(str(artifacts))
    assert type(model) is NLinearModel
    (weights,) = restored.glob(f"models/tiny/{answers['champion']['model_version']}/weights.safetensors")
    exported = load_file(weights)
    loaded = model.model.state_dict()
    assert set(loaded) == set(exported)
    assert all(torch.equal(loaded[name], exported[name]) for name in exported)


# darts models and checkpoints


@pytest.fixture(scope="module")
def wave() -> TimeSeries:
    return TimeSeries.from_values((np.sin(np.arange(160) / 4) + np.arange(160) / 100).astype("float32"))


def check_forecast(model: Any, wave: TimeSeries, expected: list[list[float]]) -> None:
    quantiles = {"predict_likelihood_parameters": True} if model.likelihood is not None else {}
    np.testing.assert_allclose(model.predict(6, wave, verbose=False, **quantiles).values(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["seasonal_naive", "linear", "nlinear", "itransformer"])
def test_a_darts_model_forecasts_as_it_did_and_is_saved_under_the_name_of_today(
    name: str, stored: Path, tmp_path: Path, answers: Mapping[str, Any], wave: TimeSeries
) -> None:
    former = f"models.{name}".encode()
    assert former in (stored / "darts" / f"{name}.pt").read_bytes()
    model_class = CATALOG[ModelName(name)].model_class()
    model = model_class.load(str(stored / "darts" / f"{name}.pt"))
    assert type(model) is model_class
    check_forecast(model, wave, answers["darts"][name])
    model.save(str(tmp_path / "again.pt"))
    assert former not in (tmp_path / "again.pt").read_bytes()
    check_forecast(model_class.load(str(tmp_path / "again.pt")), wave, answers["darts"][name])


def test_an_automatic_checkpoint_is_loaded(stored: Path, answers: Mapping[str, Any], wave: TimeSeries) -> None:
    model = NLinearModel.load_from_checkpoint("automatic", work_dir=str(stored / "darts"))
    check_forecast(model, wave, answers["darts"]["automatic"])


@pytest.mark.parametrize("source", ["nlinear", "automatic"])
def test_weights_are_loaded_into_a_new_model(
    source: str, stored: Path, answers: Mapping[str, Any], wave: TimeSeries
) -> None:
    folder = stored / "darts"
    former = NLinearModel.load(str(folder / "nlinear.pt"))
    model = former.untrained_model()
    if source == "automatic":
        model.load_weights_from_checkpoint("automatic", work_dir=str(folder), skip_checks=True, load_encoders=False)
    else:
        model.load_weights(str(folder / "nlinear.pt"))
    check_forecast(model, wave, answers["darts"][source])


def test_a_file_may_name_no_other_class_by_a_former_name(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match=r"models\.linear\.LinearModel"):
        NLinearModel.load(str(stored / "darts" / "linear.pt"))
    monkeypatch.setattr(NLinearConfig, "__module__", "models.nlinear")
    torch.save(NLinearConfig(), tmp_path / "config.pt")
    with pytest.raises(Exception, match=r"models\.nlinear\.NLinearConfig"):
        NLinearModel.load(str(tmp_path / "config.pt"))


def test_every_model_that_moved_has_its_former_name() -> None:
    present = {spec.source.partition(":")[0] for spec in CATALOG.values()}
    assert present - {"models.foundation"} == set(FORMER_MODULES.values())
    assert not [name for name in FORMER_MODULES if (ROOT / f"{name.replace('.', '/')}.py").exists()]


def test_a_killed_training_is_read_and_begun_anew_with_the_same_result(
    home: Installation, stored: Path, tmp_path: Path, answers: Mapping[str, Any]
) -> None:
    checkpoint = tmp_path / "training.ckpt"
    shutil.copyfile(stored / "darts" / "training.ckpt", checkpoint)
    assert read_checkpoint(checkpoint)["callbacks"]["Watch"]["settings"]
    data = TrainingData.read(home.dataset())
    # A busy machine must not end the training before its patience does.
    unhurried = data.config.training.model_copy(update={"budget": "1h"})
    config = data.config.model_copy(update={"training": unhurried})
    fitted = fit(config, data.panel, data.slices, data.scaler, "nlinear", checkpoint=checkpoint)
    assert fitted.resumed_after == 0
    (note,) = fitted.notes
    assert note == 'not resumed: "training.ckpt" has other data, another config or another release'
    assert fitted.epochs == answers["training"]["epochs"]
    assert fitted.best_loss == pytest.approx(answers["training"]["best_loss"], rel=1e-5)
