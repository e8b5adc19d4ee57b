from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.errors import ConfigError, ConflictError, DataError, ForecastError, NotFoundError, StorageError
from forecast.lake.forecasts import Forecasts
from forecast.lake.observations import Observations
from forecast.lake.schemas import FORECASTS, TIME

START = datetime(2024, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def table(folder: Path, channels: tuple[str, ...] = ("load", "wind")) -> Observations:
    (folder / "locks").mkdir(exist_ok=True, parents=True)
    return Observations(folder / "lake", folder / "locks", "tiny", channels)


def folder(observations: Observations) -> Path:
    return Path(observations._folder.location)


def rows(first: int, last: int, load: float | None = 1.0, series: str = "east") -> pl.DataFrame:
    times = [START + hour * HOUR for hour in range(first, last)]
    return pl.DataFrame(
        {"series": [series] * len(times), "time": times, "load": [load] * len(times), "wind": [2.0] * len(times)},
        schema={"series": pl.String, "time": TIME, "load": pl.Float64, "wind": pl.Float64},
    )


@pytest.fixture
def observations(tmp_path: Path) -> Observations:
    return table(tmp_path)


def test_a_table_does_not_exist_before_its_first_rows(observations: Observations) -> None:
    assert not observations.exists
    observations.merge(rows(0, 1))
    assert observations.exists


def test_rows_come_back_sorted_by_series_and_time_with_utc_times(observations: Observations) -> None:
    observations.merge(pl.concat([rows(0, 60, series="west"), rows(0, 60)]).sample(fraction=1, shuffle=True, seed=1))
    read = observations.read()
    assert read.equals(pl.concat([rows(0, 60), rows(0, 60, series="west")]))
    assert read.schema["time"] == TIME


def test_a_replayed_batch_changes_nothing(observations: Observations) -> None:
    first = observations.merge(rows(0, 100))
    again = observations.merge(rows(0, 100))
    assert (first.new, first.changed, first.unchanged) == (100, 0, 0)
    assert (again.new, again.changed, again.unchanged) == (0, 0, 100)
    assert again.version == first.version == observations.version


def test_new_changed_and_unchanged_rows_are_told_apart(observations: Observations) -> None:
    observations.merge(rows(0, 72))  # from January into February, two partitions
    counts = observations.merge(pl.concat([rows(0, 10), rows(10, 60, load=5.0), rows(72, 80)]))
    assert (counts.new, counts.changed, counts.unchanged) == (8, 50, 10)
    read = observations.read()
    assert len(read) == 80
    assert read["load"].to_list() == [1.0] * 10 + [5.0] * 50 + [1.0] * 20


@pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None), (1.0, float("nan"))])
def test_a_value_that_comes_or_goes_is_a_change(
    observations: Observations, before: float | None, after: float | None
) -> None:
    observations.merge(rows(0, 1, load=before))
    assert observations.merge(rows(0, 1, load=after)).changed == 1
    assert observations.merge(rows(0, 1, load=after)).unchanged == 1


def test_an_earlier_version_can_still_be_read(observations: Observations) -> None:
    versions = [observations.merge(rows(0, 5, load=float(number))).version for number in range(3)]
    for number, version in enumerate(versions):
        assert observations.read(version=version)["load"].to_list() == [number] * 5
    assert observations.read().equals(observations.read(version=versions[-1]))


def test_a_version_that_does_not_exist_is_reported(observations: Observations) -> None:
    observations.merge(rows(0, 1))
    with pytest.raises(NotFoundError, match="the latest is 0") as caught:
        observations.read(version=7)
    assert caught.value.code == "lake.no_version"


@pytest.mark.parametrize("column", ["series", "time"])
def test_a_row_without_a_key_is_refused_and_nothing_is_written(observations: Observations, column: str) -> None:
    broken = rows(0, 3).with_columns(pl.when(pl.int_range(3) != 1).then(column).alias(column))
    with pytest.raises(DataError) as caught:
        observations.merge(broken)
    assert caught.value.code == "lake.null_key"
    assert not observations.exists


def test_two_rows_with_one_key_are_refused_and_nothing_is_written(observations: Observations) -> None:
    observations.merge(rows(0, 1))
    with pytest.raises(DataError) as caught:
        observations.merge(pl.concat([rows(5, 6), rows(5, 6, load=2.0)]))
    assert caught.value.code == "lake.duplicate_key"
    assert len(observations.read()) == 1


@pytest.mark.parametrize(
    "broken",
    [
        rows(0, 1).with_columns(extra=pl.lit(1.0)),
        rows(0, 1).drop("wind"),
        rows(0, 1).with_columns(load=pl.lit("1")),
        rows(0, 1).with_columns(load=pl.lit(1)),
        rows(0, 1).with_columns(pl.col("time").dt.replace_time_zone(None)),
        rows(0, 1).with_columns(pl.col("time").dt.convert_time_zone("Europe/Berlin")),
        rows(0, 1).with_columns(pl.col("time").dt.cast_time_unit("ms")),
    ],
    ids=["extra column", "missing column", "text", "whole number", "naive time", "local time", "milliseconds"],
)
def test_rows_that_do_not_fit_the_schema_are_refused(observations: Observations, broken: pl.DataFrame) -> None:
    with pytest.raises(DataError) as caught:
        observations.merge(broken)
    assert caught.value.code == "lake.schema"
    assert not observations.exists


def test_no_rows_at_all_change_nothing(observations: Observations) -> None:
    version = observations.merge(rows(0, 5)).version
    counts = observations.merge(rows(0, 0))
    assert (counts.new, counts.changed, counts.unchanged, counts.version) == (0, 0, 0, version)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 30), st.sampled_from([0.0, 1.0, None])), min_size=1, max_size=4
    )
)
def test_after_any_batches_each_row_has_the_value_that_came_last(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, int, float | None]]
) -> None:
    observations = table(tmp_path_factory.mktemp("lake"))
    expected: dict[datetime, float | None] = {}
    for first, length, load in batches:
        counts = observations.merge(rows(first, first + length, load=load))
        assert counts.new + counts.changed + counts.unchanged == length
        expected |= {START + hour * HOUR: load for hour in range(first, first + length)}
    read = observations.read()
    assert dict(zip(read["time"], read["load"], strict=True)) == expected
    assert len(read) == len(expected)


def test_a_channel_that_the_table_does_not_have_is_reported(observations: Observations, tmp_path: Path) -> None:
    observations.merge(rows(0, 1))
    with pytest.raises(ConfigError, match="no channel humidity") as caught:
        table(tmp_path, ("load", "wind", "humidity")).read()
    assert caught.value.code == "lake.channels_changed"


def test_a_channel_that_the_job_no_longer_names_does_not_stop_ingestion(
    observations: Observations, tmp_path: Path
) -> None:
    observations.merge(rows(0, 3))
    narrower = table(tmp_path, ("load",))
    counts = narrower.merge(rows(2, 5, load=7.0).drop("wind"))
    assert (counts.new, counts.changed) == (2, 1)
    assert narrower.read()["load"].to_list() == [1.0, 1.0, 7.0, 7.0, 7.0]


@pytest.mark.parametrize("name", ["with space", "what?", "no#1", "Größe"])
def test_a_table_lies_where_it_should_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    observations = table(tmp_path / name)
    observations.merge(rows(0, 3))
    observations.merge(rows(2, 5))
    assert len(observations.read()) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a%20b", "a[1]"])
def test_a_folder_whose_name_delta_cannot_take_is_reported_and_nothing_is_written_elsewhere(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ForecastError):
        table(tmp_path / name).merge(rows(0, 3))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_table_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lake").touch()
    with pytest.raises(StorageError) as caught:
        table(tmp_path).merge(rows(0, 1))
    assert caught.value.code == "lake.failed"


def test_a_lock_that_cannot_be_taken_for_lack_of_permission_is_reported(tmp_path: Path) -> None:
    observations = table(tmp_path)
    (tmp_path / "locks" / "tiny.observations.lock").mkdir()
    with pytest.raises(StorageError):
        observations.merge(rows(0, 1))


@pytest.mark.parametrize(
    "use",
    [Observations.read, lambda each: each.version_at(datetime.now(UTC)), lambda each: each.merge(rows(0, 1))],
    ids=["read", "version at a time", "merge"],
)
def test_a_broken_log_is_reported_by_every_method(
    observations: Observations, use: Callable[[Observations], object]
) -> None:
    observations.merge(rows(0, 1))
    log = folder(observations) / "_delta_log" / f"{0:020d}.json"
    log.write_text("{ this is no log", encoding="utf-8")
    with pytest.raises(StorageError) as caught:
        use(observations)
    assert caught.value.code == "lake.corrupt"


def test_a_truncated_data_file_is_reported(observations: Observations) -> None:
    observations.merge(rows(0, 50))
    for file in folder(observations).rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StorageError) as caught:
        observations.read()
    assert caught.value.code == "lake.corrupt"


def test_a_writer_that_finds_the_table_locked_for_too_long_gives_up(
    observations: Observations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("forecast.lake.locks._LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / "locks" / "tiny.observations.lock"), pytest.raises(ConflictError, match="another process"):
        observations.merge(rows(0, 1))


# --- issued forecasts -------------------------------------------------------------------------------------------------


def issued(forecast_id: str, month: str = "2024-01", leads: int = 3) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "forecast_id": [forecast_id] * leads,
            "issued_month": [month] * leads,
            "series": ["east"] * leads,
            "channel": ["load"] * leads,
            "lead": list(range(1, leads + 1)),
            "time": [START + lead * HOUR for lead in range(leads)],
            "mean": [1.0] * leads,
            "quantiles": [[0.0, 1.0, 2.0]] * leads,
        },
        schema=FORECASTS,
    )


def test_a_forecast_is_read_by_its_id_whole_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    forecasts = Forecasts(tmp_path / "lake", tmp_path / "locks", "tiny")
    forecasts.append(issued("one").reverse())
    forecasts.append(issued("two", month="2024-02"))
    assert forecasts.read("one", START).equals(issued("one"))
    assert forecasts.read("two", datetime(2024, 2, 1, tzinfo=UTC)).equals(issued("two", month="2024-02"))
    assert forecasts.read("three", START).is_empty()


def test_rows_that_are_no_forecast_are_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    forecasts = Forecasts(tmp_path / "lake", tmp_path / "locks", "tiny")
    with pytest.raises(StorageError):
        forecasts.append(issued("one").drop("mean"))
    with pytest.raises(StorageError):
        forecasts.read("one", START)
