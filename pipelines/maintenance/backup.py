"""Back up a home into one archive while the installation keeps running.

The order makes the backup consistent. Rows, models and files are on disk before the ledger names them, so the ledger is
copied first: everything that this copy names is in the tables and models that are copied afterwards. Newer rows in them
look like the leftovers of a crash and are harmless.
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
    """Result of a backup."""

    path: Path
    bytes: int
    manifest: BackupManifest
    warnings: tuple[ForecastError, ...]
    """Parts of the installation that are stored elsewhere, and how to back them up."""


def back_up(installation: Installation, target: Path) -> Backup:
    """Write a backup to the file ``target``, or under a name with the time into the existing folder ``target``.

    Raises ``backup.exists``, ``backup.running``, ``backup.failed``, and ``lake.corrupt`` for a file that does not match
    its digest.
    """
    home, made_at = installation.home, SystemClock().now()
    path = target / f"forecast-{made_at:%Y%m%dT%H%M%SZ}.tar" if target.is_dir() else target
    for folder in (home.lake, home.models, home.artifacts, home.reports):
        if path.resolve().is_relative_to(folder.resolve()):
            message = f'"{path}" is inside "{folder}", which is part of the backup'
            raise ConflictError("backup.inside", message, "choose a path outside the home")
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
            f"the ledger is stored in {backend} and is not part of this backup",
            "run pg_dump before each backup: then the backup contains everything that the dump names",
        )
    if isinstance(home.tables, str):
        yield StorageError(
            "backup.lake_elsewhere",
            f'the tables are stored in "{home.tables}" and are not part of this backup',
            "enable versioning of the bucket, and restore it to a time after this backup",
        )
    if not home.tracking_uri.startswith("sqlite:") or not (home.path / TRACKING).exists():
        place = "no runs are tracked in the home" if home.tracking_uri.startswith("sqlite:") else "MLflow has a server"
        yield StorageError(
            "backup.tracking_elsewhere",
            f"MLflow's runs are not part of this backup: {place}",
            "back up the MLflow server",
        )


@contextmanager
def _scratch(home: Home) -> Iterator[Path]:
    """Provide a folder on the lake's disk (for hard links); leftovers of a killed backup are removed first."""
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
        raise ConflictError("backup.running", "another backup is running", "wait until it has finished") from error


def _copy_database(source: Path, scratch: Path, archive: Writer) -> None:
    """Copy a consistent snapshot of a SQLite database while other processes write to it."""
    if not source.exists():
        return
    try:
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(scratch)) as copy:
            live.backup(copy)
            # Otherwise the copy would have a second file (the write-ahead log).
            copy.execute("PRAGMA journal_mode=DELETE")
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise StorageError(
            "backup.database_damaged", f'database "{source}" is damaged ({found})', "restore it from a backup"
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
    shutil.rmtree(pinned.folder)  # links keep files on disk that maintenance has removed since


def _models(installation: Installation) -> list[Path]:
    """Return the folders of all present and past champions; the next night removes other models anyway.

    Raises ``model.corrupt`` if the manifest of a present champion does not match the digest of its promotion.
    """
    home, ledger = installation.home, installation.ledger
    datasets = {*installation.config.datasets, *(path.name for path in home.models.iterdir())}
    names: set[str] = set()
    for dataset in sorted(datasets):
        champion = ledger.champions.current(dataset)
        if champion is not None and manifest_digest(home.models / champion.folder) != champion.digest:
            message = f'the manifest in "{home.models / champion.folder}" has changed since its promotion'
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
                _LOG.warning("%s was removed before it was copied", path)  # MLflow deletes artifacts on its own
