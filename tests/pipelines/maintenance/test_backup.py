"""Backups of a running home, and homes restored from them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from forecast.errors import ForecastError
from forecast.installation import Installation
from forecast.lake import checksums
from forecast.lake.pinned import Pinned
from forecast.ledger.issuance import Issuance
from forecast.runtime.model import load
from pipelines.forecasting.issue import issue
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance import backup
from pipelines.maintenance.archive import Writer, read_manifest
from pipelines.maintenance.backup import Backup, back_up
from pipelines.maintenance.maintain import check_tables, maintain
from pipelines.maintenance.restore import restore

# Stands still in the middle of a backup.
TO_BE_KILLED = """
import sys, time
from pathlib import Path
from forecast.installation import Installation
from pipelines.maintenance import backup

def halt(*_):
    print("halfway", flush=True)
    time.sleep(600)

backup._copy_table = halt
backup.back_up(Installation.open(Path(sys.argv[1])), Path(sys.argv[2]))
"""
# Ingests a row more, issues a forecast and tidies up, again and again, until its standard input is closed.
AT_WORK = """
import select, sys
from datetime import timedelta
from pathlib import Path
import polars as pl
from forecast.installation import Installation
from pipelines.ingestion.ingest import ingest
from pipelines.maintenance.maintain import maintain
from pipelines.forecasting.issue import issue

installation = Installation.open(Path(sys.argv[1]))
rows, every = installation.home.path / "rows.csv", pl.read_csv(sys.argv[2])
hours = 330
while not select.select([sys.stdin], [], [], 0)[0]:
    every.filter(pl.int_range(pl.len()).over("site") < hours).write_csv(rows)
    ingest(installation.dataset("tiny"))
    issuance, _ = issue(installation.dataset("tiny"))
    if hours % 4 == 0:
        maintain(installation.dataset("tiny"), timedelta(microseconds=1))
    print(issuance.forecast_id, flush=True)
    hours += 1
"""


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ForecastError) as caught:
        act()
    assert caught.value.remedy
    return caught.value.code


@pytest.fixture
def issued_home(tiny_home: Installation) -> Installation:
    issue(tiny_home.dataset("tiny"))
    return tiny_home


@pytest.fixture
def reopened() -> Callable[[Path], Installation]:
    """Open a restored home as a process that has just started."""

    def reopen(folder: Path) -> Installation:
        checksums._INTACT.clear()
        return Installation.open(folder)

    return reopen


def test_a_backup_made_while_others_write_is_restored_whole(
    tiny_home: Installation,
    tiny_rows: Callable[..., pl.DataFrame],
    reopened: Callable[[Path], Installation],
    tmp_path: Path,
) -> None:
    tiny_rows(1000).write_csv(tmp_path / "every.csv")
    (tiny_home.home.path / "rows.csv").unlink()
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, tiny_home.home.path, tmp_path / "every.csv"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        made: list[tuple[Issuance | None, Backup]] = []
        overlapped = 0
        while overlapped < 3 and len(made) < 100:
            before = tiny_home.ledger.issuances.latest("tiny")
            made.append((before, back_up(tiny_home, tmp_path / f"{len(made)}.tar")))
            overlapped += tiny_home.ledger.issuances.latest("tiny") != before
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0
    assert overlapped == 3, "nothing was issued while a backup was made"

    for number, (before, made_one) in enumerate((made[0], made[-1])):
        folder = tmp_path / f"restored-{number}"
        assert restore(made_one.path, folder).champions == ("repeat_last-1",)
        with reopened(folder).ledger as ledger:
            again = Installation(reopened(folder).home, tiny_home.config, ledger)
            assert check_tables(again.dataset("tiny")) == ()
            assert before in ledger.issuances.newest("tiny", 1000), (
                "a forecast that was issued before the backup is missing"
            )
            for issuance in ledger.issuances.newest("tiny", 3):
                rows = again.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at)
                assert len(rows) == 2 * 2 * 24
                assert rows.equals(tiny_home.dataset("tiny").forecasts.read(issuance.forecast_id, issuance.issued_at))
            champion = ledger.champions.current("tiny")
            assert champion is not None
            load(again.home.models / champion.folder, champion.digest)


def test_a_restored_home_goes_on_where_the_backup_was_made(
    issued_home: Installation,
    tiny_rows: Callable[..., pl.DataFrame],
    reopened: Callable[[Path], Installation],
    tmp_path: Path,
) -> None:
    made = back_up(issued_home, tmp_path)
    assert made.path.parent == tmp_path
    assert made.manifest.tables == {"tiny/observations": 0, "tiny/forecasts": 0}
    assert not list(issued_home.home.lake.glob(".*"))
    restore(made.path, tmp_path / "again")
    again = reopened(tmp_path / "again")
    tiny_rows(410).write_csv(again.home.path / "rows.csv")
    with again.ledger:
        assert ingest(again.dataset("tiny")).new == 20
        assert issue(again.dataset("tiny"))[1]
        maintain(again.dataset("tiny"))


def test_maintenance_during_a_backup_takes_nothing_away_from_it(
    issued_home: Installation,
    tiny_rows: Callable[..., pl.DataFrame],
    reopened: Callable[[Path], Installation],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for hours in (401, 402):
        tiny_rows(hours).write_csv(issued_home.home.path / "rows.csv")
        ingest(issued_home.dataset("tiny"))
    files = issued_home.home.lake / "tiny" / "observations"
    copy, removed = backup._copy_table, []

    def late(pinned: Pinned, place: str, archive: Writer) -> None:
        # After the files were pinned, before they are copied.
        if not place.endswith("observations"):
            copy(pinned, place, archive)
            return
        before = {path.name for path in files.rglob("*.parquet")}
        for _ in range(2):  # puts files together, then removes those that it was made of
            maintain(issued_home.dataset("tiny"), timedelta(microseconds=1))
        removed.extend(before - {path.name for path in files.rglob("*.parquet")})
        copy(pinned, place, archive)

    monkeypatch.setattr(backup, "_copy_table", late)
    made = back_up(issued_home, tmp_path / "one.tar")
    assert removed
    restore(made.path, tmp_path / "again")
    again = reopened(tmp_path / "again")
    with again.ledger:
        assert [len(again.dataset("tiny").observations.read(version=version)) for version in (0, 1, 2)] == [
            800,
            802,
            804,
        ]


def test_what_was_running_waits_in_the_queue_of_a_restored_home(
    issued_home: Installation, reopened: Callable[[Path], Installation], tmp_path: Path
) -> None:
    from forecast.config.jobs import Job
    from forecast.scheduling.job_book import JobBook
    from forecast.scheduling.processes import machine

    clock = issued_home.dataset("tiny").clock
    JobBook(issued_home).add("often", Job.model_validate({"dataset": "tiny", "steps": ["ingest"]}))
    JobBook(issued_home).run_now("often")
    ledger = issued_home.ledger
    assert ledger.runs.take(machine(), clock.now(), trainings=1, others=1)
    ledger.leases.take("scheduler", "me", None)
    restore(back_up(issued_home, tmp_path / "one.tar").path, tmp_path / "again")
    with reopened(tmp_path / "again").ledger as restored:
        assert [run.state for run in restored.runs.find()] == ["queued"]
        assert restored.leases.get("scheduler") is None
    assert [run.state for run in ledger.runs.find()] == ["running"]


def test_mlflow_finds_its_artifacts_in_the_new_home(
    issued_home: Installation, tracking_database: Path, tmp_path: Path
) -> None:
    from forecast.tracking.registry import Registry

    home = issued_home.home
    shutil.copyfile(tracking_database, home.path / "mlflow.db")
    with Registry(home).night("tiny", "a night", {}) as night:
        night.file("kept", "note.txt")
    restore(back_up(issued_home, tmp_path / "one.tar").path, tmp_path / "again")
    with closing(sqlite3.connect(tmp_path / "again" / "mlflow.db")) as connection:
        (place,) = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (night.run_id,)).fetchone()
    folder = Path(place.removeprefix("file://"))
    assert folder.is_relative_to(tmp_path / "again")
    assert (folder / "note.txt").read_text() == "kept"


def test_a_home_is_made_only_where_nothing_is(issued_home: Installation, tmp_path: Path) -> None:
    made = back_up(issued_home, tmp_path / "one.tar").path
    assert refused(lambda: restore(made, issued_home.home.path)) == "restore.not_empty"
    assert refused(lambda: restore(made, made)) == "restore.not_a_folder"
    assert refused(lambda: restore(tmp_path / "none.tar", tmp_path / "again")) == "backup.not_found"
    (tmp_path / "again" / ".restoring").mkdir(parents=True)  # of one that was killed
    (tmp_path / "again" / ".restoring" / "torn").write_text("x")
    restore(made, tmp_path / "again")
    assert not list((tmp_path / "again").glob(".*"))


def test_a_damaged_archive_is_refused_wherever_it_is_damaged(issued_home: Installation, tmp_path: Path) -> None:
    made = back_up(issued_home, tmp_path / "one.tar").path
    whole = made.read_bytes()
    with tarfile.open(made) as tar:
        places = [(info.offset_data, info.size) for info in tar if info.size]
    damaged = tmp_path / "damaged.tar"
    spots = [begin + size // 2 for begin, size in places] + [places[0][0] - 500]  # one in a member's own header
    for spot in spots:
        damaged.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
        assert refused(lambda: restore(damaged, tmp_path / "again")) == "backup.damaged", spot
    for length in (0, 100, len(whole) // 2, places[-1][0]):
        damaged.write_bytes(whole[:length])
        assert refused(lambda: restore(damaged, tmp_path / "again")) == "backup.damaged", length
    assert not list((tmp_path / "again").iterdir())


def test_an_archive_that_reaches_out_of_the_home_is_refused(issued_home: Installation, tmp_path: Path) -> None:
    import hashlib

    made = back_up(issued_home, tmp_path / "one.tar").path
    manifest = read_manifest(made)
    content = manifest.model_copy(update={"files": {"../out": "0" * 64}}).model_dump_json(indent=1).encode()
    hostile = tmp_path / "hostile.tar"
    own = f"{hashlib.sha256(content).hexdigest()}  manifest.json\n".encode()
    with tarfile.open(hostile, "w") as tar:
        for name, text in (("manifest.json", content), ("manifest.sha256", own)):
            (tmp_path / name).write_bytes(text)
            tar.add(tmp_path / name, name)
    assert refused(lambda: restore(hostile, tmp_path / "again")) == "backup.damaged"


def test_what_is_damaged_is_not_backed_up_as_if_it_were_whole(issued_home: Installation, tmp_path: Path) -> None:
    home = issued_home.home
    file = next((home.lake / "tiny" / "observations").glob("month=*/*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert refused(lambda: back_up(issued_home, tmp_path / "one.tar")) == "lake.corrupt"
    file.unlink()
    assert refused(lambda: back_up(issued_home, tmp_path / "one.tar")) == "lake.corrupt"
    file.write_bytes(content)
    (home.models / "repeat_last-1" / "manifest.json").write_text("{}")
    assert refused(lambda: back_up(issued_home, tmp_path / "one.tar")) == "model.corrupt"
    assert not list(tmp_path.glob("*.tar*")) + list(tmp_path.glob(".*"))


def test_a_killed_backup_does_not_block_the_next_one(issued_home: Installation, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TO_BE_KILLED, issued_home.home.path, tmp_path / "one.tar"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "halfway"
        process.kill()
    assert not (tmp_path / "one.tar").exists()
    assert list(tmp_path.glob(".*.tmp"))
    made = back_up(issued_home, tmp_path / "one.tar")
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*.tmp"))
    assert not list(issued_home.home.lake.glob(".*"))
    assert check_tables(issued_home.dataset("tiny")) == ()


def test_nothing_is_written_over_and_two_backups_take_turns(issued_home: Installation, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "one.tar").write_text("mine")
    assert refused(lambda: back_up(issued_home, tmp_path / "one.tar")) == "backup.exists"
    assert refused(lambda: back_up(issued_home, tmp_path / "no" / "folder.tar")) == "backup.failed"
    for folder in (issued_home.home.lake, issued_home.home.models, issued_home.home.reports):
        assert refused(lambda folder=folder: back_up(issued_home, folder)) == "backup.inside"
    with FileLock(issued_home.home.locks / "backup.lock"):
        assert refused(lambda: back_up(issued_home, tmp_path / "two.tar")) == "backup.running"
    assert (tmp_path / "one.tar").read_text() == "mine"


def test_what_lies_elsewhere_is_named(
    issued_home: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORECAST_LEDGER_URL", "postgresql+psycopg://me:secret@127.0.0.1/ledger")
    monkeypatch.setenv("FORECAST_LAKE_URL", "s3://bucket/lake")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    made = back_up(issued_home, tmp_path / "one.tar")
    codes = ("backup.ledger_elsewhere", "backup.lake_elsewhere", "backup.tracking_elsewhere")
    assert tuple(warning.code for warning in made.warnings) == codes == made.manifest.left_out
    assert "pg_dump" in made.warnings[0].remedy
    assert "versioning" in made.warnings[1].remedy
    names = set(made.manifest.files)
    assert "forecast.toml" in names
    assert "ledger.db" not in names
    assert not any(name.startswith("lake/") for name in names)
    assert "secret" not in json.dumps(made.manifest.model_dump(mode="json"))
    assert restore(made.path, tmp_path / "again").champions == ()
