"""A replay releases the rows of a file as its clock moves on, some of them late, and each of them once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import forecast
from forecast.errors import DataError
from forecast.installation import Installation, replay_start
from pipelines.ingestion.ingest import ingest

START = datetime(2024, 1, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)
MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]


@pytest.fixture
def replay(make_home: MakeHome, tiny_document: dict[str, Any], tiny_rows: MakeRows) -> Callable[..., Installation]:
    """Make a home whose 400 hours of rows are replayed from their eleventh day on."""

    def make(rows: pl.DataFrame | None = None, start: datetime = datetime(2024, 1, 11), **fields: Any) -> Installation:  # noqa: DTZ001
        tiny_document["datasets"]["tiny"] |= {
            "source": {"kind": "replay", "path": "rows.parquet", "start": start},
            **fields,
        }
        installation = make_home(document=tiny_document)
        (tiny_rows() if rows is None else rows).write_parquet(installation.home.path / "rows.parquet")
        return installation

    return make


def moved_to(installation: Installation, position: datetime) -> None:
    installation.dataset("tiny").clock.now()
    installation.ledger.clocks.move("tiny", position)


def test_at_its_start_all_rows_that_are_over_are_history(replay: Callable[..., Installation]) -> None:
    installation = replay()
    receipt = ingest(installation.dataset("tiny"))
    assert installation.dataset("tiny").clock.now() == START
    assert receipt.last == START - HOUR
    assert receipt.new == 2 * 240


def test_a_row_is_released_once_its_hour_is_over(replay: Callable[..., Installation]) -> None:
    installation = replay()
    for minutes, hours in ((59, 0), (60, 1), (61, 1)):
        moved_to(installation, START + timedelta(minutes=minutes))
        newest = ingest(installation.dataset("tiny")).last
        assert newest == START + (hours - 1) * HOUR


def test_some_rows_come_late_and_then_come_after_all(replay: Callable[..., Installation]) -> None:
    installation = replay()
    seen: list[set[tuple[str, datetime]]] = []
    for hours in range(4, 104, 4):
        now = START + hours * HOUR
        moved_to(installation, now)
        ingest(installation.dataset("tiny"))
        seen.append(set(installation.dataset("tiny").observations.read().select("series", "time").rows()))
        punctual = {row for row in seen[-1] if row[1] >= START}
        over = {(site, START + hour * HOUR) for site in ("east", "west") for hour in range(hours)}
        assert punctual <= over
        assert {key for key in over if key[1] + 4 * HOUR <= now} <= punctual, "nothing is later than three hours"
    late = [
        key
        for earlier, later in pairwise(seen)
        for key in later - earlier
        if any(key[1] < other[1] for other in earlier if other[0] == key[0])
    ]
    assert late


def test_the_same_rows_are_late_each_time(
    replay: Callable[..., Installation], tmp_path: Path, tiny_rows: MakeRows
) -> None:
    del tmp_path
    first = replay()
    moved_to(first, START + 50 * HOUR)
    ingest(first.dataset("tiny"))
    one = first.dataset("tiny").observations.read()
    shuffled = replay(rows=tiny_rows().sample(fraction=1, shuffle=True, seed=3))
    assert ingest(shuffled.dataset("tiny")).unchanged == len(one)


def test_at_the_end_of_its_file_a_replay_stops_and_every_row_has_come(replay: Callable[..., Installation]) -> None:
    installation = replay()
    moved_to(installation, START + 170 * HOUR)
    ingest(installation.dataset("tiny"))
    stopped = installation.dataset("tiny").clock.now()
    installation.ledger.clocks.move("tiny", START + 10_000 * HOUR)
    assert installation.dataset("tiny").clock.now() == stopped
    ingest(installation.dataset("tiny"))
    assert len(installation.dataset("tiny").observations.read()) == 800


def test_a_row_without_a_time_does_not_keep_a_replay_from_stopping(
    replay: Callable[..., Installation], tiny_rows: MakeRows
) -> None:
    rows = tiny_rows()
    rows = pl.concat([rows, rows[:1].with_columns(time=pl.lit(None, dtype=rows.schema["time"]))])
    installation = replay(rows=rows)
    moved_to(installation, START + 170 * HOUR)
    ingest(installation.dataset("tiny"))
    installation.ledger.clocks.move("tiny", START + 10_000 * HOUR)
    assert installation.dataset("tiny").clock.now() < START + 1000 * HOUR


@pytest.mark.parametrize(
    "rewritten",
    [
        pl.col("time").dt.replace_time_zone("UTC"),
        pl.col("time").dt.strftime("%Y-%m-%d %H:%M"),
        pl.col("time").dt.cast_time_unit("ns"),
    ],
    ids=["aware", "text", "nanoseconds"],
)
def test_a_replay_takes_times_in_every_form_that_other_sources_take(
    replay: Callable[..., Installation], tiny_rows: MakeRows, rewritten: pl.Expr
) -> None:
    assert ingest(replay(rows=tiny_rows().with_columns(rewritten)).dataset("tiny")).new == 480


@pytest.mark.parametrize("column", ["time", "site", "load"])
def test_a_replay_whose_file_lacks_a_column_is_reported(
    replay: Callable[..., Installation], tiny_rows: MakeRows, column: str
) -> None:
    with pytest.raises(DataError, match=f'no column "{column}"; did you mean') as caught:
        ingest(replay(rows=tiny_rows().rename({column: column + "s"})).dataset("tiny"))
    assert caught.value.code == "ingest.missing_column"


def test_a_replay_that_begins_before_its_file_has_no_rows_yet(replay: Callable[..., Installation]) -> None:
    with pytest.raises(DataError) as caught:
        ingest(replay(start=datetime(2023, 1, 1)).dataset("tiny"))  # noqa: DTZ001
    assert caught.value.code == "ingest.empty"


def test_a_start_without_a_zone_is_a_wall_time_of_the_data_set(config_with: Callable[..., Any]) -> None:
    source = {"kind": "replay", "path": "x", "start": datetime(2024, 7, 1)}  # noqa: DTZ001
    assert replay_start(config_with(source=source, zone="Europe/Berlin")) == datetime(2024, 6, 30, 22, tzinfo=UTC)
    assert replay_start(config_with()) is None


def test_a_replay_crosses_the_hour_that_autumn_doubles_without_losing_a_row(
    replay: Callable[..., Installation],
) -> None:
    zone = "Europe/Berlin"
    instants = pl.datetime_range(
        datetime(2024, 10, 20, tzinfo=UTC), datetime(2024, 10, 30, tzinfo=UTC), "1h", eager=True
    )
    wall = instants.dt.convert_time_zone(zone).dt.replace_time_zone(None).cast(pl.Datetime("us"))
    rows = pl.DataFrame({"time": wall, "site": "east", "load": 1.0, "price": 1.0, "wind": 1.0})
    installation = replay(rows=rows, start=datetime(2024, 10, 25), zone=zone)  # noqa: DTZ001
    for hour in range(60):
        now = datetime(2024, 10, 26, tzinfo=UTC) + hour * HOUR
        moved_to(installation, now)
        if 18 <= hour <= 32:
            ingest(installation.dataset("tiny"))
            assert installation.dataset("tiny").observations.read()["time"].max() <= now - HOUR
    moved_to(installation, datetime(2024, 10, 28, tzinfo=UTC))
    ingest(installation.dataset("tiny"))
    stored = (
        installation.dataset("tiny").observations.read().filter(pl.col("time") < datetime(2024, 10, 27, 12, tzinfo=UTC))
    )
    assert stored["time"].to_list() == instants.filter(instants < datetime(2024, 10, 27, 12, tzinfo=UTC)).to_list()


def test_the_sample_is_ingested_once_however_often_it_is_read(make_home: MakeHome, tmp_path: Path) -> None:
    import tomllib

    document = tomllib.loads((Path(forecast.__file__).parent / "config" / "sample.toml").read_text(encoding="utf-8"))
    installation = make_home(document=document, folder=tmp_path / "sample")
    first = ingest(installation.dataset("nyc-airports"))
    again = ingest(installation.dataset("nyc-airports"))
    assert first.new == first.rows > 20_000
    assert (again.new, again.changed, again.unchanged) == (0, 0, first.rows)
    assert first.series == ("EWR", "JFK", "LGA")
