"""Where an installation keeps its things: one folder, the home, and a few process settings from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from forecast.errors import ConfigError, NotFoundError, StorageError

JOB_FILE = "forecast.toml"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation, and the names of what lies in it."""

    path: Path

    @property
    def job_file(self) -> Path:
        """The job file: what to ingest, train, forecast, and when."""
        return self.path / JOB_FILE

    @property
    def lake(self) -> Path:
        """Delta tables: observations, issued forecasts, and rows put aside."""
        return self.path / "lake"

    @property
    def tables(self) -> Path | str:
        """Where the tables lie: :attr:`lake`, or the object store that ``FORECAST_LAKE_URL`` names, as ``s3://...``."""
        return os.environ.get("FORECAST_LAKE_URL") or self.lake

    @property
    def models(self) -> Path:
        """Exported models: one folder per model version, ONNX file and manifest."""
        return self.path / "models"

    @property
    def checkpoints(self) -> Path:
        """What trainings that were interrupted go on from, by data set."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """One text file per run of a job."""
        return self.path / "logs"

    def run_log(self, run_id: int) -> Path:
        """Return what a run writes to, in all its attempts."""
        return self.logs / f"run-{run_id}.log"

    @property
    def reports(self) -> Path:
        """HTML reports written for people."""
        return self.path / "reports"

    @property
    def locks(self) -> Path:
        """Lock files: one writer per table, one scheduler per home."""
        return self.path / "locks"

    @property
    def ledger_url(self) -> str:
        """Database of the ledger: SQLite inside the home unless ``FORECAST_LEDGER_URL`` says otherwise."""
        # Escaped by its own rules: with a "?" or "%20" in a folder's name the database would lie elsewhere.
        inside = sa.URL.create("sqlite", database=(self.path / "ledger.db").as_posix()).render_as_string()
        return os.environ.get("FORECAST_LEDGER_URL") or inside

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: SQLite inside the home unless ``MLFLOW_TRACKING_URI`` says otherwise."""
        file = (self.path / "mlflow.db").as_posix()
        # Only what must be is escaped: MLflow makes the folder of this name as it stands, "Gr%C3%B6%C3%9Fe" too.
        return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///" + file.replace("%", "%25").replace("?", "%3F")

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts when its store lies inside the home."""
        return self.path / "mlartifacts"

    @property
    def is_made(self) -> bool:
        """Whether there is a job file; raises ``home.not_readable`` if nobody may look."""
        return _exists(self.job_file)

    def prepare(self) -> None:
        """Make the folders of the home, or say which one cannot be made."""
        for folder in (self.path, self.lake, self.models, self.logs, self.reports, self.locks):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    "home.not_writable",
                    f'cannot make the folder "{folder}" ({error.strerror})',
                    "choose a folder you may write to with --home or FORECAST_HOME",
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StorageError(
                    "home.not_writable",
                    f'no permission to write to the folder "{folder}"',
                    "choose a folder you may write to with --home or FORECAST_HOME",
                )


def home_at(folder: Path) -> Home:
    """Return the home in a folder, which need not be there yet."""
    try:
        return Home(folder.expanduser().absolute())
    except RuntimeError as error:  # "~nobody"
        raise ConfigError("home.no_such_user", f"no such user: {folder}", "write the folder out") from error


def _exists(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:
        raise StorageError(
            "home.not_readable", f'cannot look into "{file.parent}" ({error.strerror})', "choose a folder you may enter"
        ) from error


def find_home(given: Path | None) -> Home:
    """Return the home: the folder given, or named by ``FORECAST_HOME``, or the current one; it must hold a job file."""
    home = home_at(Path(given or os.environ.get("FORECAST_HOME") or "."))
    if not home.is_made:
        raise NotFoundError(
            "home.not_found",
            f'there is no {JOB_FILE} in "{home.path}"',
            'make a home with "forecast init FOLDER", then name it with --home or FORECAST_HOME, or go there',
        )
    home.prepare()
    return home


def default_dataset() -> str | None:
    """Return the data set that clients mean who cannot name one: ``FORECAST_DEFAULT_DATASET``, if it is set."""
    return os.environ.get("FORECAST_DEFAULT_DATASET") or None


def cores() -> int:
    """Return how many cores one training may use: ``FORECAST_CORES``, else those this process may run on."""
    text = os.environ.get("FORECAST_CORES", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                "cores.malformed", f'FORECAST_CORES="{text}" is not a positive whole number', "set it to 2"
            )
        return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)
