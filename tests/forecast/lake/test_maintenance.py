"""Maintenance: fewer files, less space, and every version within the retention as it was."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from forecast.errors import NotFoundError
from forecast.lake.forecasts import Forecasts
from forecast.lake.observations import Observations
from forecast.lake.quarantine import Quarantine
from forecast.lake.schemas import FORECASTS, TIME

START = datetime(2024, 1, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Ticking:
    """A clock that tells the next hour each time it is asked."""

    hours: int = 0

    def now(self) -> datetime:
        self.hours += 1
        return START + self.hours * HOUR


def table(folder: Path) -> Observations:
    (folder / "locks").mkdir(exist_ok=True)
    return Observations(folder / "lake", folder / "locks", "tiny", ("load",), Ticking())


def rows(first: int, last: int, load: float = 1.0) -> pl.DataFrame:
    times = [START + hour * HOUR for hour in range(first, last)]
    return pl.DataFrame(
        {"series": ["east"] * len(times), "time": times, "load": [load] * len(times)},
        schema={"series": pl.String, "time": TIME, "load": pl.Float64},
    )


def data_files(observations: Observations | Forecasts) -> list[Path]:
    return sorted(Path(observations._folder.location).rglob("*.parquet"))


def test_every_version_within_the_retention_is_read_as_before_and_the_others_are_reported_as_gone(
    tmp_path: Path,
) -> None:
    observations = table(tmp_path)
    for number in range(30):
        observations.merge(rows(7 * number, 7 * number + 10, load=float(number)))
    recorded = [observations._recorded_at(number) for number in range(30)]
    versions = [observations.read(version=number) for number in range(30)]
    now = recorded[-1] + HOUR
    done = observations.maintain(now - recorded[11] - timedelta(minutes=1), now)  # a minute after version 11
    assert done.files_after < done.files_before
    assert done.bytes_freed > 0
    for number in range(11, 30):
        assert observations.version_at(recorded[number]) == number
        assert observations.read(version=number).equals(versions[number])
    assert observations.read().equals(versions[-1])
    for ask in (lambda: observations.read(version=10), lambda: observations.version_at(recorded[10])):
        with pytest.raises(NotFoundError, match="no longer kept") as caught:
            ask()
        assert caught.value.code == "lake.not_kept"
    assert observations.check().damages == ()
    assert observations.merge(rows(7 * 29, 7 * 29 + 10, load=29.0)).unchanged == 10


def test_a_second_maintenance_changes_nothing(tmp_path: Path) -> None:
    observations = table(tmp_path)
    for number in range(5):
        observations.merge(rows(10 * number, 10 * number + 10))
    now = START + 1000 * HOUR
    observations.maintain(timedelta(0), now)
    version, files = observations.version, data_files(observations)
    done = observations.maintain(timedelta(0), now)
    assert (observations.version, data_files(observations), done.bytes_freed) == (version, files, 0)
    assert done.files_before == done.files_after == 1


def test_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    observations = table(tmp_path)
    observations.merge(rows(0, 10))
    left = Path(observations._folder.location, "month=2024-01", "left.parquet")
    left.write_bytes(b"never committed")
    note = Path(observations._folder.location, "README.txt")
    note.write_text("not ours", encoding="utf-8")
    assert observations.maintain(timedelta(days=1), START + HOUR).bytes_freed == len(b"never committed")
    assert (left.exists(), note.exists()) == (False, True)


def test_a_month_that_gets_many_small_files_is_put_together_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observations = table(tmp_path)
    monkeypatch.setattr("forecast.lake.observations.MANY_FILES", 6)
    monkeypatch.setattr("forecast.lake.table.MANY_FILES", 6)
    for number in range(14):
        observations.merge(rows(number, number + 1))
    assert len(observations._open(observations.version).files) < 7
    assert len(observations.read()) == 14
    (tmp_path / "locks").mkdir(exist_ok=True)
    forecasts = Forecasts(tmp_path / "lake", tmp_path / "locks", "tiny")
    for number in range(14):
        values = [f"f{number}", "2024-01", "east", "load", 1, START, 1.0, [1.0]]
        forecasts.append(pl.DataFrame([values], schema=FORECASTS, orient="row"))
    assert len(forecasts._open(forecasts.version).files) < 7
    assert all(len(forecasts.read(f"f{number}", START)) == 1 for number in range(14))


def test_the_log_is_read_from_a_checkpoint_after_many_versions(tmp_path: Path) -> None:
    observations = table(tmp_path)
    for number in range(45):
        observations.merge(rows(0, 1, load=float(number)))
    listed = observations._digests.up_to(44)
    logs = [name for name in listed if name.endswith(".json")]
    assert len(logs) == 5  # 40, which the checkpoint is of, to 44
    assert sum("checkpoint" in name for name in listed) == 1
    assert not Path(observations._folder.location, "_delta_log", "_last_checkpoint").exists()
    assert observations.read()["load"].to_list() == [44.0]


# --- rows put aside ---------------------------------------------------------------------------------------------------


def put_aside(*content: str, source: str = "a.csv", code: str = "flat_line") -> pl.DataFrame:
    return pl.DataFrame(
        [(source, number + 1, code, "message", "east", "yesterday", each) for number, each in enumerate(content)],
        schema={
            "source": pl.String, "row": pl.Int64, "code": pl.String, "reason": pl.String,
            "series": pl.String, "time": pl.String, "content": pl.String,
        },
        orient="row",
    )  # fmt: skip


def test_rows_are_quarantined_once_whatever_file_they_come_in(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    quarantine = Quarantine(tmp_path / "lake", tmp_path / "locks", "tiny", Ticking())
    assert quarantine.read().is_empty()
    assert quarantine.append(put_aside('{"load":1}', '{"load":2}', '{"load":1}')) == 2
    version = quarantine.version
    assert quarantine.append(put_aside('{"load":2}', '{"load":1}', source="b.csv")) == 0
    assert quarantine.version == version
    assert quarantine.append(put_aside('{"load":2}', code="spike")) == 1
    newest = quarantine.read(limit=2)
    assert newest.select("code", "row").rows() == [("spike", 1), ("flat_line", 1)]
    assert quarantine.read().height == 3
    assert quarantine.read()["digest"].n_unique() == 3
    assert quarantine.maintain(timedelta(0), START + 100 * HOUR).files_after == 1
    assert quarantine.read().height == 3
    assert quarantine.append(put_aside('{"load":1}')) == 0
