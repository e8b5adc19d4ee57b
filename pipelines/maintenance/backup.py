"""Back a home up into one archive while everything runs.

The order makes it consistent. What a forecast, a champion or a receipt names is on disk before the ledger names it, so
the ledger is copied first: whatever that copy names is in the tables and models that are copied after it. What they
have beyond it is as a crash at that moment would have left it, and harmless.
"""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.errors import ConflictError, ForecastError, StorageError
from forecast.home import CONFIG_FILE, Home
from forecast.installation import Installation
from forecast.lake.pinned import Pinned, pin
from forecast.runtime.manifest import manifest_digest
from pipelines.maintenance.archive import BackupManifest, Writer, written

LEDGER, TRACKING = "ledger.db", "mlflow.db"
_SCRATCH = ".backup"
_DIGESTS = "_digests"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backup:
    """An archive that was written."""

    path: Path
    bytes: int
    manifest: BackupManifest
    warnings: tuple[ForecastError, ...]
    """What lies elsewhere, and how it is saved."""


def back_up(installation: Installation, target: Path) -> Backup:
    """Write a backup to a file, or to one named by the time into a folder that is there.

    Raises ``backup.exists``, ``backup.running``, ``backup.failed``, and ``lake.corrupt`` for a file that is not as it
    was written.
    """
    home, made_at = installation.home, SystemClock().now()
    path = target / f"forecast-{made_at:%Y%m%dT%H%M%SZ}.tar" if target.is_dir() else target
    for folder in (home.lake, home.models, home.artifacts, home.reports):
        if path.resolve().is_relative_to(folder.resolve()):
            message = f'"{path}" lies in "{folder}", which is backed up'
            raise ConflictError("backup.inside", message, "choose a place outside the home")
    warnings = tuple(_elsewhere(home))
    with _scratch(home) as scratch, written(path, str(home.path)) as archive:
        ledger = sa.make_url(home.ledger_url)
        if ledger.get_backend_name() == "sqlite":
            _copy_database(Path(ledger.database or ""), scratch / LEDGER, archive)
        _copy_database(home.path / TRACKING, scratch / TRACKING, archive)
        archive.add(CONFIG_FILE, home.config_file)
        tables = {} if isinstance(home.tables, str) else dict(_copy_tables(home, scratch, archive))
        for folder in _models(installation):
            _copy_folder(folder, home, archive)
        for folder in (home.artifacts, home.reports):
            _copy_folder(folder, home, archive, is_changing=True)
        manifest = BackupManifest(
            release=importlib.metadata.version("forecast-service"),
            made_at=made_at,
            home=str(home.path),
            tables=tables,
            left_out=tuple(warning.code for warning in warnings),
            files=archive.files.copy(),
        )
        archive.finish(manifest)
    return Backup(path, path.stat().st_size, manifest, warnings)


def _elsewhere(home: Home) -> Iterator[ForecastError]:
    backend = sa.make_url(home.ledger_url).get_backend_name()
    if backend != "sqlite":
        yield StorageError(
            "backup.ledger_elsewhere",
            f"the ledger lies in {backend} and is not in this backup",
            "run pg_dump before each backup, so that whatever it names is in the backup",
        )
    if isinstance(home.tables, str):
        yield StorageError(
            "backup.lake_elsewhere",
            f'the tables lie in "{home.tables}" and are not in this backup',
            "turn on the bucket's versioning, and restore it to a time after this backup was made",
        )
    if not home.tracking_uri.startswith("sqlite:") or not (home.path / TRACKING).exists():
        place = "no runs are tracked in the home" if home.tracking_uri.startswith("sqlite:") else "MLflow has a server"
        yield StorageError(
            "backup.tracking_elsewhere", f"MLflow's runs are not in this backup: {place}", "save them where they are"
        )


@contextmanager
def _scratch(home: Home) -> Iterator[Path]:
    """Give a folder on the lake's disk, to which files can be linked; what a killed backup left is removed before."""
    try:
        with FileLock(home.locks / "backup.lock", timeout=0):
            scratch = home.lake / _SCRATCH
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                scratch.mkdir()
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except Timeout as error:
        raise ConflictError("backup.running", "another backup is being made", "wait until it is done") from error


def _copy_database(source: Path, scratch: Path, archive: Writer) -> None:
    """Copy a SQLite database as it stands at one moment, while others write to it."""
    if not source.exists():
        return
    try:
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(scratch)) as copy:
            live.backup(copy)
            # Or there would be a second file to it.
            copy.execute("PRAGMA journal_mode=DELETE")
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise StorageError(
            "backup.database_damaged", f'"{source}" cannot be copied whole ({found})', "restore it from a backup"
        )
    archive.add(scratch.name, scratch)


def _copy_tables(home: Home, scratch: Path, archive: Writer) -> Iterator[tuple[str, int]]:
    for digests in sorted(home.lake.glob(f"[!.]*/*/{_DIGESTS}")):
        table = digests.parent
        dataset, name = table.parent.name, table.name
        pinned = pin(table, home.locks / f"{dataset}.{name}.lock", scratch / dataset / name)
        if pinned is not None:
            _copy_table(pinned, f"lake/{dataset}/{name}", archive)
            yield f"{dataset}/{name}", pinned.version


def _copy_table(pinned: Pinned, place: str, archive: Writer) -> None:
    for name, digest in pinned.files.items():
        archive.add(f"{place}/{name}", pinned.folder / name, digest)
    shutil.rmtree(pinned.folder)  # what maintenance has removed since takes room as long as it is linked


def _models(installation: Installation) -> list[Path]:
    """Return the folders of all models that were ever champion: the others are taken away by the next night.

    Raises ``model.corrupt`` if one that is champion now is not the one that was promoted.
    """
    home, ledger = installation.home, installation.ledger
    datasets = {*installation.config.datasets, *(path.name for path in home.models.iterdir())}
    names: set[str] = set()
    for dataset in sorted(datasets):
        champion = ledger.champions.current(dataset)
        if champion is not None and manifest_digest(home.models / champion.folder) != champion.digest:
            message = f'the manifest in "{home.models / champion.folder}" is not the one that was promoted'
            raise StorageError("model.corrupt", message, "roll back or retrain, then back up")
        names |= ledger.champions.folders(dataset)
    return [home.models / name for name in sorted(names)]


def _copy_folder(folder: Path, home: Home, archive: Writer, *, is_changing: bool = False) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                archive.add(path.relative_to(home.path).as_posix(), path)
            except FileNotFoundError:
                if not is_changing:
                    raise
                _LOG.warning("%s was removed before it was copied", path)  # MLflow's own clearing up
