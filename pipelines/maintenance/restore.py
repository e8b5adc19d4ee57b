"""Make a home of a backup: unpacked beside its place, verified, and only then called a home."""

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

_HALF_MADE = ".restoring"
_PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Where MLflow writes down in which folder an artifact lies."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A home that was made of a backup."""

    home: Path
    manifest: BackupManifest
    champions: tuple[str, ...]
    """Versions that were loaded and answered as when they were exported."""


def restore(archive: Path, folder: Path) -> Restored:
    """Restore a backup into a folder that is empty or not there yet.

    Every file is compared with its digest, the tables are checked as ``maintain`` does, every champion is loaded. The
    job file comes last: until then nothing takes the folder for a home, and a restore that was killed is begun anew by
    the next one. What ran when the backup was made waits in the queue.

    Raises ``restore.not_empty``, ``backup.damaged``, ``lake.corrupt``, ``restore.failed``, and what loading a model
    raises.
    """
    _require_empty(folder)
    manifest = read_manifest(archive)
    home = Home(folder / _HALF_MADE)
    try:
        shutil.rmtree(home.path, ignore_errors=True)
        home.prepare()
        unpack(archive, manifest.files, home.path)
        champions = _verified(home, manifest)
        if (home.path / TRACKING).exists():
            _move_artifacts(home.path / TRACKING, Path(manifest.home), folder)
        for path in home.path.rglob("*"):
            if path.is_dir():  # the files themselves are on the disk already
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
        found = [path.name for path in folder.iterdir() if path.name != _HALF_MADE]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConflictError("restore.not_a_folder", f'"{folder}" is not a folder to look into', "name one") from error
    if found:
        raise ConflictError(
            "restore.not_empty", f'"{folder}" is not empty: it has "{min(found)}"', "name a folder that is not there"
        )


def _verified(home: Home, manifest: BackupManifest) -> tuple[str, ...]:
    """Look through all that was unpacked, and let go of what was at work; returns the champions that load."""
    jobs = load_config_file(home.config_file)
    if LEDGER not in manifest.files:
        return ()
    # The home's own, whatever FORECAST_LEDGER_URL says: that one would be another installation's.
    with Ledger.open(sa.URL.create("sqlite", database=str(home.path / LEDGER)).render_as_string()) as ledger:
        _let_go(ledger)
        installation = Installation(home, jobs, ledger)
        damages: list[Damage] = []
        versions: list[str] = []
        for name in jobs.datasets:
            if isinstance(home.tables, Path) and any(each.startswith(f"{name}/") for each in manifest.tables):
                damages += check_tables(installation.dataset(name))
            champion = ledger.champions.current(name)
            if champion is not None:
                load(home.models / champion.folder, champion.digest)
                versions.append(champion.model_version)
    if damages:
        raise StorageError("lake.corrupt", "\n  ".join(damage.message for damage in damages), "restore another backup")
    return tuple(versions)


def _let_go(ledger: Ledger) -> None:
    """Put back into the queue what was running: its process, if it still lives, works for the home that was copied."""
    now = SystemClock().now()
    for run in ledger.runs.find(states=("running",), limit=10_000):
        ledger.runs.finish(run, "handed_back", now, "the home was restored from a backup", retry=True)
    for host in ledger.hosts.known():
        ledger.hosts.remove(host.name)
    lease = ledger.leases.get(SCHEDULER)
    if lease is not None:
        ledger.leases.release(SCHEDULER, lease[0])


def _move_artifacts(database: Path, old: Path, new: Path) -> None:
    """Let MLflow find its artifacts in the new home: it keeps their places as whole paths."""
    before, after = (f"{Home(path).artifacts.as_uri()}/" for path in (old, new))
    with closing(sqlite3.connect(database)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _PLACES.items():
            if table in known:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                    (after, len(before) + 1, len(before), before),
                )


def _move_in(half_made: Path, folder: Path) -> None:
    for path in sorted(half_made.iterdir(), key=lambda each: each.name == CONFIG_FILE):
        if path.name == CONFIG_FILE:  # whoever sees it finds everything else on the disk
            flush(folder)
        path.rename(folder / path.name)
    flush(folder)
