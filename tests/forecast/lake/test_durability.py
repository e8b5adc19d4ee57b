"""What is acknowledged stays: two writers, killed writers, and the order in which files reach the disk."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from forecast.installation import Installation
from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME
from pipelines.forecasting.issue import issue

START = datetime(2024, 1, 1, tzinfo=UTC)

# Merges batches of 20 rows (forever, or a given number) and acknowledges each one on standard output.
WRITER = """
import sys
from datetime import timedelta
from pathlib import Path
import polars as pl
from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME
folder, series, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
table = Observations(folder / "lake", folder / "locks", "tiny", ("load",))
start = pl.datetime(2024, 1, 1, time_zone="UTC")
for batch in range(first, first + count):
    rows = pl.select(
        series=pl.lit(series).repeat_by(20).explode(empty_as_null=True),
        time=(start + pl.duration(hours=batch * 20 + pl.int_range(20))).cast(TIME),
        load=pl.lit(float(batch)).repeat_by(20).explode(empty_as_null=True),
    )
    table.merge(rows)
    print(batch, flush=True)
"""


def begin_writer(folder: Path, series: str, first: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), series, str(first), str(count)], stdout=subprocess.PIPE, text=True
    )


def table(folder: Path) -> Observations:
    (folder / "locks").mkdir(exist_ok=True)
    return Observations(folder / "lake", folder / "locks", "tiny", ("load",))


def folder(observations: Observations) -> Path:
    return Path(observations._folder.location)


def rows(first: int, last: int, load: float = 1.0) -> pl.DataFrame:
    times = [START + timedelta(hours=hour) for hour in range(first, last)]
    return pl.DataFrame(
        {"series": ["east"] * len(times), "time": times, "load": [load] * len(times)},
        schema={"series": pl.String, "time": TIME, "load": pl.Float64},
    )


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were flushed to disk, in order."""
    order: list[Path] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(path.with_suffix("") if path.suffix == ".tmp" else path)  # renamed when it is whole
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return order


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    observations = table(tmp_path)
    writers = [begin_writer(tmp_path, series, 0, 8) for series in ("east", "west")]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    read = observations.read()
    assert read.group_by("series").len().sort("series").rows() == [("east", 160), ("west", 160)]
    assert not read.select("series", "time").is_duplicated().any()


def test_a_killed_writer_leaves_each_acknowledged_batch_exactly_once(tmp_path: Path) -> None:
    observations = table(tmp_path)
    acknowledged: set[int] = set()
    first = 0
    for kill in range(5):
        with begin_writer(tmp_path, "east", first, 1000) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                acknowledged.add(int(line))
                if len(acknowledged) >= 3 * (kill + 1):
                    break
            # Somewhere within a later merge: after each kill another fraction of one has gone by.
            writer.stdout.read(kill % 2)
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {int(line) for line in writer.stdout.read().split()}
        first = max(acknowledged)  # the last acknowledged batch is replayed, as a careful client would
        read = observations.read()
        assert not read.select("series", "time").is_duplicated().any()
        whole = read.group_by("load").len().filter(pl.col("len") == 20)["load"].cast(pl.Int64).to_list()
        assert acknowledged <= set(whole)


def test_data_reach_the_disk_before_the_folders_and_the_log_that_name_them(tmp_path: Path, synced: list[Path]) -> None:
    observations = table(tmp_path)
    for first, last in ((0, 10), (5, 800)):  # the second one adds a month and changes the first
        synced.clear()
        version = observations.merge(rows(first, last, load=float(first))).version
        log = folder(observations) / "_delta_log" / f"{version:020d}.json"
        digests = folder(observations) / "_digests" / f"{version:020d}.sha256"
        data = [path for path in synced if path.suffix == ".parquet"]
        assert data
        assert synced[-5:] == [log, log.parent, digests, digests.parent, folder(observations)]
        assert max(synced.index(path) for path in data) < min(synced.index(path.parent) for path in data)
        assert max(synced.index(path.parent) for path in data) < synced.index(log)
        assert folder(observations) in synced


def test_the_folders_above_a_new_table_reach_the_disk_too(tmp_path: Path, synced: list[Path]) -> None:
    table(tmp_path).merge(rows(0, 1))
    assert {tmp_path / "lake" / "tiny", tmp_path / "lake"} <= set(synced)


def test_a_replayed_batch_is_on_disk_even_if_its_first_writer_died_before_it_was(
    tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    observations = table(tmp_path)
    observations.merge(rows(0, 10))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("forecast.lake.acknowledgement.Acknowledgement.acknowledge", die)
        with pytest.raises(KeyboardInterrupt):
            observations.merge(rows(10, 20))
    committed = set(folder(observations).rglob("*.parquet")) | {folder(observations) / "_delta_log" / f"{1:020d}.json"}
    observations.merge(rows(10, 20))  # acknowledged now: so it must be on disk now
    assert committed <= set(synced)


def test_a_checkpoint_of_the_log_is_on_disk_too_since_every_reader_starts_from_it(
    tmp_path: Path, synced: list[Path]
) -> None:
    observations = table(tmp_path)
    observations.merge(rows(0, 1, load=0.0))
    for number in range(1, 25):
        observations.merge(rows(0, 1, load=float(number)))
    assert observations.read()["load"].to_list() == [24.0]
    checkpoints = {*folder(observations).glob("_delta_log/*checkpoint*")}
    assert checkpoints
    assert checkpoints <= set(synced)


def test_an_issued_forecast_is_on_disk_before_it_is_acknowledged(tiny_home: Installation, synced: list[Path]) -> None:
    issue(tiny_home.dataset("tiny"))
    forecasts = tiny_home.home.lake / "tiny" / "forecasts"
    assert set(forecasts.rglob("*.parquet")) <= set(synced)
    assert forecasts / "_delta_log" / f"{0:020d}.json" in synced
