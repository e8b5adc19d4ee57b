"""Damage is found before any damaged file is read; an unacknowledged tail is moved aside."""

import logging
import random
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from forecast.errors import StorageError
from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME

START = datetime(2024, 1, 31, 12, tzinfo=UTC)
FUTURE = datetime(2200, 1, 1, tzinfo=UTC)


def table(folder: Path) -> Observations:
    (folder / "locks").mkdir(exist_ok=True)
    return Observations(folder / "lake", folder / "locks", "tiny", ("load",))


def rows(first: int, last: int, load: float = 1.0) -> pl.DataFrame:
    times = [START + timedelta(hours=hour) for hour in range(first, last)]
    return pl.DataFrame(
        {"series": ["east"] * len(times), "time": times, "load": [load] * len(times)},
        schema={"series": pl.String, "time": TIME, "load": pl.Float64},
    )


@pytest.fixture
def observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observations:
    """A table of five versions, one of them with a checkpoint of the log."""
    monkeypatch.setattr("forecast.lake.acknowledgement._CHECKPOINT_EVERY", 3)
    observations = table(tmp_path)
    for number in range(5):
        observations.merge(rows(6 * number, 6 * number + 12, load=float(number)))
    return observations


def folder(observations: Observations) -> Path:
    return Path(observations._folder.location)


def log(observations: Observations, version: int) -> Path:
    return folder(observations) / "_delta_log" / f"{version:020d}.json"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_or_refused(observations: Observations, version: int) -> pl.DataFrame | StorageError:
    try:
        return observations.read(version=version)
    except StorageError as error:
        return error


def test_every_file_of_a_table_has_its_digest_in_files_that_sha256sum_reads(observations: Observations) -> None:
    files = {str(path.relative_to(folder(observations))) for path in folder(observations).rglob("*") if path.is_file()}
    digests = sorted(name for name in files if name.startswith("_digests/"))
    assert len(digests) == 5
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", *digests],
        cwd=folder(observations),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.removesuffix(": OK") for line in checked.stdout.splitlines()} == files - set(digests)
    assert observations.check().files == len(files)
    assert observations.check().damages == ()


def test_no_flipped_bit_is_read(observations: Observations) -> None:
    drawn = random.Random(7)  # noqa: S311  # which bits, no secret
    good = {version: observations.read(version=version) for version in range(5)}
    files = sorted(path for path in folder(observations).rglob("*") if path.is_file())
    refused = 0
    for number in range(300):
        path = files[number % len(files)]
        bit = drawn.randrange(path.stat().st_size * 8)
        version = drawn.randrange(5)
        flip(path, bit)
        damages = observations.check().damages
        assert [damage.code for damage in damages] == ["lake.corrupt"], (path, bit)
        assert f'"{path}"' in damages[0].message
        outcome = read_or_refused(observations, version)
        if isinstance(outcome, StorageError):
            assert (outcome.code, f'"{path}"' in outcome.fact) == ("lake.corrupt", True)
            refused += 1
        else:
            assert outcome.equals(good[version]), (path, bit)
        flip(path, bit)
    assert refused > 100
    assert observations.check().damages == ()
    assert observations.read().equals(good[4])


@pytest.mark.parametrize(
    "use", [Observations.read, lambda each: each.merge(rows(24, 26, load=9.0))], ids=["read", "merge"]
)
def test_a_damaged_file_is_named_with_the_remedy_and_nothing_is_moved(
    observations: Observations, use: Callable[[Observations], object]
) -> None:
    before = sorted(folder(observations).rglob("*"))
    newest = max(folder(observations).glob("month=2024-02/*"), key=lambda path: path.stat().st_mtime_ns)
    flip(newest, 800)
    with pytest.raises(StorageError, match="restore this file from a backup") as caught:
        use(observations)
    assert newest.name in caught.value.fact
    assert sorted(folder(observations).rglob("*")) == before


@pytest.mark.parametrize("which", ["data", "log", "digests"])
def test_a_file_that_is_gone_is_reported(observations: Observations, which: str) -> None:
    paths = {
        "data": next(folder(observations).glob("month=2024-01/*")),
        "log": log(observations, 3),
        "digests": folder(observations) / "_digests" / f"{3:020d}.sha256",
    }
    paths[which].unlink()
    assert any(str(paths[which]) in damage.message for damage in observations.check().damages)


def test_a_file_is_read_for_its_digest_once_per_process(
    observations: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    observations.read()
    monkeypatch.setattr("forecast.lake.storage.Folder.digest", None)
    assert len(observations.read()) == 36


def test_an_unacknowledged_checkpoint_is_not_trusted(observations: Observations) -> None:
    made = folder(observations) / "_delta_log" / f"{3:020d}.checkpoint.parquet"
    stray = made.with_name(f"{4:020d}.checkpoint.parquet")
    shutil.copy(made, stray)
    with pytest.raises(StorageError) as caught:
        observations.read()
    assert (caught.value.code, str(stray) in caught.value.fact) == ("lake.corrupt", True)


# --- torn tails -------------------------------------------------------------------------------------------------------


def unacknowledge(observations: Observations) -> Path:
    """Make the latest version one whose writer never came to acknowledge it; returns its only data file."""
    before = set(folder(observations).rglob("*.parquet"))
    version = observations.merge(rows(100, 110)).version
    (folder(observations) / "_digests" / f"{version:020d}.sha256").unlink()
    (data,) = set(folder(observations).rglob("*.parquet")) - before
    return data


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def without_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


TEARS: dict[str, Callable[[Path, Path], None]] = {
    "log empty": lambda log, _: cut(log, 0),
    "log of zeros": lambda log, _: (log.write_bytes(bytes(log.stat().st_size)), None)[1],
    "half a log": lambda log, _: cut(log, 0.5),
    "log without its last line": lambda log, _: without_last_line(log),
    "no data": lambda _, data: data.unlink(),
    "half the data": lambda _, data: cut(data, 0.5),
    "zeros in the data": lambda _, data: (data.write_bytes(bytes(data.stat().st_size)), None)[1],
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_tail_is_moved_aside_and_the_table_goes_on(
    observations: Observations, tmp_path: Path, tear: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, version = observations.read(), observations.version
    data = unacknowledge(observations)
    TEARS[tear](log(observations, version + 1), data)
    with caplog.at_level(logging.WARNING):
        assert table(tmp_path).read().equals(good)
    assert "lake.torn_tail" in caplog.text
    assert observations.version == version
    aside = [path.name.split("-", 1)[1] for path in (folder(observations) / "_quarantine").iterdir()]
    assert log(observations, version + 1).name in aside
    assert {damage.code for damage in observations.check().damages} == {"lake.torn_tail"}
    assert observations.merge(rows(100, 110)).version == version + 1
    assert len(observations.read()) == len(good) + 10


def test_a_whole_tail_is_taken_in(observations: Observations, tmp_path: Path) -> None:
    version = observations.version
    unacknowledge(observations)
    assert len(table(tmp_path).read()) == 46
    assert observations.version == version + 1
    assert observations.check().damages == ()
    assert observations.merge(rows(100, 110)).version == version + 1


def test_a_tail_is_not_touched_while_its_writer_is_at_work(observations: Observations, tmp_path: Path) -> None:
    version = observations.version
    unacknowledge(observations)
    with observations._writing():
        (folder(observations) / "_digests" / f"{version + 1:020d}.sha256").unlink()
        assert table(tmp_path).version == version
        assert len(table(tmp_path).read()) == 36
    assert table(tmp_path).version == version + 1


def test_a_first_version_that_was_torn_is_no_table(tmp_path: Path) -> None:
    observations = table(tmp_path)
    observations.merge(rows(0, 5))
    shutil.rmtree(folder(observations) / "_digests")
    cut(log(observations, 0), 0.3)
    assert not table(tmp_path).exists
    assert observations.merge(rows(0, 5)).version == 0
    assert len(observations.read()) == 5


def test_an_acknowledged_version_that_is_torn_is_rejected_not_moved_aside(observations: Observations) -> None:
    cut(log(observations, 4), 0.5)
    for use in (observations.read, lambda: observations.merge(rows(0, 1)), lambda: observations.version_at(FUTURE)):
        with pytest.raises(StorageError) as caught:
            use()
        assert caught.value.code == "lake.corrupt"
    assert log(observations, 4).exists()


def test_a_checkpoint_of_a_version_that_was_never_acknowledged_is_made_anew(observations: Observations) -> None:
    observations.merge(rows(100, 110))  # version 5; 6 would have a checkpoint
    checkpoint = folder(observations) / "_delta_log" / f"{6:020d}.checkpoint.parquet"
    checkpoint.write_bytes(b"torn")
    assert observations.merge(rows(200, 210)).version == 6
    assert len(observations.read()) == 56
    assert checkpoint.stat().st_size > 100
    assert observations.check().damages == ()
