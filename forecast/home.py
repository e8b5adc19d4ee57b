"""The home: the folder of an installation, and a few process settings from environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from forecast.errors import ConfigError, NotFoundError, StorageError

CONFIG_FILE = "forecast.toml"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation, with the paths inside it.

    >>> Home(Path("/srv/forecast")).config_file.name, Home(Path("/srv/forecast")).run_log(7).name
    ('forecast.toml', 'run-7.log')
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The config file: data sets and jobs."""
        return self.path / CONFIG_FILE

    @property
    def lake(self) -> Path:
        """Folder of the Delta tables: observations, issued forecasts and quarantined rows."""
        return self.path / "lake"

    @property
    def tables(self) -> Path | str:
        """Location of the tables: :attr:`lake`, or the object store of ``FORECAST_LAKE_URL``, such as ``s3://...``."""
        return os.environ.get("FORECAST_LAKE_URL") or self.lake

    @property
    def models(self) -> Path:
        """Exported models: one folder per model version, ONNX file and manifest."""
        return self.path / "models"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of interrupted trainings, one folder per data set."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Logs: one text file per run of a job."""
        return self.path / "logs"

    def run_log(self, run_id: int) -> Path:
        """Return the log of a run, shared by all its attempts."""
        return self.logs / f"run-{run_id}.log"

    @property
    def reports(self) -> Path:
        """HTML reports."""
        return self.path / "reports"

    @property
    def locks(self) -> Path:
        """Lock files: one writer per table, one scheduler per home."""
        return self.path / "locks"

    @property
    def ledger_url(self) -> str:
        """Database URL of the ledger: ``FORECAST_LEDGER_URL``, default SQLite inside the home."""
        # SQLAlchemy escapes "?" and "%20" in a folder's name; unescaped they would name another database.
        inside = sa.URL.create("sqlite", database=(self.path / "ledger.db").as_posix()).render_as_string()
        return os.environ.get("FORECAST_LEDGER_URL") or inside

    @property
    def tracking_uri(self) -> str:
        """URI of MLflow's store: ``MLFLOW_TRACKING_URI``, default SQLite inside the home."""
        file = (self.path / "mlflow.db").as_posix()
        # Minimal escaping: MLflow creates the folder under the name as given, so "ö" must not become "%C3%B6".
        return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///" + file.replace("%", "%25").replace("?", "%3F")

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts if its store lies inside the home."""
        return self.path / "mlartifacts"

    @property
    def is_made(self) -> bool:
        """Whether the config file exists; raises ``home.not_readable`` if the folder is not accessible."""
        return _exists(self.config_file)

    def prepare(self) -> None:
        """Create the folders of the home; raises ``home.not_writable`` with the one that cannot be created."""
        for folder in (self.path, self.lake, self.models, self.logs, self.reports, self.locks):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    "home.not_writable",
                    f'cannot create the folder "{folder}" ({error.strerror})',
                    "choose a writable folder with --home or FORECAST_HOME",
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StorageError(
                    "home.not_writable",
                    f'no permission to write to the folder "{folder}"',
                    "choose a writable folder with --home or FORECAST_HOME",
                )


def home_at(folder: Path) -> Home:
    """Return the home in a folder, which need not exist yet; raises ``home.no_such_user`` for ``~nobody``."""
    try:
        return Home(folder.expanduser().absolute())
    except RuntimeError as error:  # "~nobody"
        raise ConfigError(
            "home.no_such_user", f"user of {folder} does not exist", "write the path without ~"
        ) from error


def _exists(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:
        raise StorageError(
            "home.not_readable", f'cannot read "{file.parent}" ({error.strerror})', "choose an accessible folder"
        ) from error


def find_home(given: Path | None) -> Home:
    """Return the home: the given folder, else ``FORECAST_HOME``, else the current folder.

    Creates missing folders inside it. Raises ``home.not_found`` if it has no config file.
    """
    home = home_at(Path(given or os.environ.get("FORECAST_HOME") or "."))
    if not home.is_made:
        raise NotFoundError(
            "home.not_found",
            f'no {CONFIG_FILE} in "{home.path}"',
            'create a home with "forecast init FOLDER", then name it with --home or FORECAST_HOME, or change to it',
        )
    home.prepare()
    return home


def default_dataset() -> str | None:
    """Return ``FORECAST_DEFAULT_DATASET``, the data set for clients that cannot name one; ``None`` if not set."""
    return os.environ.get("FORECAST_DEFAULT_DATASET") or None


def cores() -> int:
    """Return the number of cores for one training: ``FORECAST_CORES``, else the cores available to this process.

    Raises ``cores.malformed``.
    """
    text = os.environ.get("FORECAST_CORES", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                "cores.malformed",
                f'FORECAST_CORES="{text}" is not a positive whole number',
                "set it to a number such as 2",
            )
        return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)
