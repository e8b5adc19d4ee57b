"""Restore a home from a backup: extract it in a subfolder, verify it, then move it into place."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from forecast.clock import SystemClock
from forecast.config.file import load_config_file
from forecast.durability import flush
from forecast.errors import ConflictError, StorageError, first_line
from forecast.home import CONFIG_FILE, Home
from forecast.installation import Installation
from forecast.lake.maintenance import Damage
from forecast.ledger import Ledger
from forecast.runtime.model import load
from forecast.scheduling.lease import SCHEDULER
from pipelines.maintenance.archive import BackupManifest, read_manifest, unpack
from pipelines.maintenance.backup import LEDGER, TRACKING
from pipelines.maintenance.maintain import check_tables

_PARTIAL = ".restoring"
_PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Columns of MLflow's tables with absolute paths of artifacts."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of a restore."""

    home: Path
    manifest: BackupManifest
    champions: tuple[str, ...]
    """Versions that were loaded and reproduced their golden example."""


def restore(archive: Path, folder: Path) -> Restored:
    """Restore a backup into a folder that is empty or does not exist.

    Every file is compared with its digest, the tables are checked as by ``maintain``, every champion is loaded. The
    config file is moved last: until then the folder is not a home, and after a kill the next restore starts again. Runs
    that were running at the time of the backup go back to the queue.

    Raises ``restore.not_empty``, ``backup.damaged``, ``lake.corrupt``, ``restore.failed``, and the errors of loading a
    model.
    """
    _require_empty(folder)
    manifest = read_manifest(archive)
    home = Home(folder / _PARTIAL)
    try:
        shutil.rmtree(home.path, ignore_errors=True)
        home.prepare()
        unpack(archive, manifest.files, home.path)
        champions = _verify(home, manifest)
        if (home.path / TRACKING).exists():
            _move_artifacts(home.path / TRACKING, Path(manifest.home), folder)
        for path in home.path.rglob("*"):
            if path.is_dir():  # unpack has flushed the files
                flush(path)
        _move_in(home.path, folder)
    except OSError as error:
        raise StorageError(
            "restore.failed", f'cannot write to "{folder}" ({error.strerror or first_line(error)})', "check the disk"
        ) from error
    finally:
        shutil.rmtree(home.path, ignore_errors=True)
    return Restored(folder, manifest, champions)


def _require_empty(folder: Path) -> None:
    try:
        found = [path.name for path in folder.iterdir() if path.name != _PARTIAL]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConflictError("restore.not_a_folder", f'"{folder}" is not a readable folder', "give a folder") from error
    if found:
        raise ConflictError(
            "restore.not_empty",
            f'"{folder}" is not empty: it contains "{min(found)}"',
            "give a folder that does not exist",
        )


def _verify(home: Home, manifest: BackupManifest) -> tuple[str, ...]:
    """Check tables and champions, and release running work; returns the versions of the champions."""
    config = load_config_file(home.config_file)
    if LEDGER not in manifest.files:
        return ()
    # FORECAST_LEDGER_URL is ignored: it would name the ledger of another installation.
    with Ledger.open(sa.URL.create("sqlite", database=str(home.path / LEDGER)).render_as_string()) as ledger:
        _release_work(ledger)
        installation = Installation(home, config, ledger)
        damages: list[Damage] = []
        versions: list[str] = []
        for dataset in installation.datasets:
            if isinstance(home.tables, Path) and any(each.startswith(f"{dataset.name}/") for each in manifest.tables):
                damages += check_tables(dataset)
            champion = dataset.champion
            if champion is not None:
                load(home.models / champion.folder, champion.digest)
                versions.append(champion.model_version)
    if damages:
        raise StorageError("lake.corrupt", "\n  ".join(damage.message for damage in damages), "restore another backup")
    return tuple(versions)


def _release_work(ledger: Ledger) -> None:
    """Requeue running runs, forget hosts and the lease: their processes belong to the home that was copied."""
    now = SystemClock().now()
    for run in ledger.runs.find(states=("running",), limit=10_000):
        ledger.runs.finish(run, "handed_back", now, "the home was restored from a backup", retry=True)
    for host in ledger.hosts.known():
        ledger.hosts.remove(host.name)
    lease = ledger.leases.get(SCHEDULER)
    if lease is not None:
        ledger.leases.release(SCHEDULER, lease[0])


def _move_artifacts(database: Path, old: Path, new: Path) -> None:
    """Rewrite MLflow's absolute artifact paths to the new home."""
    before, after = (f"{Home(path).artifacts.as_uri()}/" for path in (old, new))
    with closing(sqlite3.connect(database)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _PLACES.items():
            if table in known:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                    (after, len(before) + 1, len(before), before),
                )


def _move_in(restored: Path, folder: Path) -> None:
    for path in sorted(restored.iterdir(), key=lambda each: each.name == CONFIG_FILE):
        if path.name == CONFIG_FILE:  # a process that sees the config file finds everything else on disk
            flush(folder)
        path.rename(folder / path.name)
    flush(folder)
