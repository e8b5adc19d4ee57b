import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
PARQUET = DATA / "nyc-airports.parquet"
CARD = (DATA / "nyc-airports.md").read_text(encoding="utf-8")

SKIPPED_HOUR = datetime(2013, 3, 10, 2)  # noqa: DTZ001 - the wall clock is what the sample tells
DOUBLED_HOUR = datetime(2013, 11, 3, 1)  # noqa: DTZ001
LAST_WEATHER = datetime(2013, 12, 30, 18)  # noqa: DTZ001

WEATHER = ["temperature", "dew_point", "humidity", "wind_speed", "pressure", "visibility", "precipitation"]
SCHEMA = pl.Schema(
    {
        "airport": pl.String(),
        "time": pl.Datetime("us"),
        "departures": pl.Int64(),
        "mean_delay": pl.Float64(),
        "cancellations": pl.Int64(),
        **dict.fromkeys(WEATHER, pl.Float64()),
    }
)

each_airport = pytest.mark.parametrize("airport", ["EWR", "JFK", "LGA"])


@pytest.fixture(scope="module")
def sample() -> pl.DataFrame:
    return pl.read_parquet(PARQUET)


@pytest.fixture(scope="module")
def sample_utc(sample: pl.DataFrame) -> pl.DataFrame:
    # File order is time order, so the second of two equal clock readings is standard time.
    second_reading = pl.int_range(pl.len()).over("airport", "time") > 0
    return sample.with_columns(
        instant=pl.col("time")
        .dt.replace_time_zone(
            "America/New_York",
            ambiguous=pl.when(second_reading).then(pl.lit("latest")).otherwise(pl.lit("earliest")),
            non_existent="raise",
        )
        .dt.convert_time_zone("UTC")
    )


def of(airport: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("airport") == airport)


def without_weather(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.all_horizontal(pl.col(WEATHER).is_null()))


def table_row(*cells: object) -> str:
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


def listing(airport: str, hours: list[datetime]) -> str:
    return f"- {airport} ({len(hours)}): " + ", ".join(f"{hour:%m-%d %H}h" for hour in hours)


def test_the_file_fits_in_one_megabyte() -> None:
    assert PARQUET.stat().st_size <= 1_000_000


def test_the_card_names_this_very_file() -> None:
    assert hashlib.sha256(PARQUET.read_bytes()).hexdigest() in CARD


def test_columns_and_types_are_as_published(sample: pl.DataFrame) -> None:
    assert sample.schema == SCHEMA
    assert [name for name in SCHEMA if f"| `{name}` |" not in CARD] == []


def test_only_the_three_airports_appear(sample: pl.DataFrame) -> None:
    assert sample["airport"].unique().sort().to_list() == ["EWR", "JFK", "LGA"]


@each_airport
def test_the_card_gives_rows_span_and_totals(sample: pl.DataFrame, airport: str) -> None:
    rows = of(airport, sample)
    expected = table_row(
        airport,
        rows.height,
        f"{rows['time'][0]:%Y-%m-%d %H:%M}",
        f"{rows['time'][-1]:%Y-%m-%d %H:%M}",
        int(rows["departures"].sum()),
        int(rows["cancellations"].sum()),
        rows.filter(pl.col("departures") + pl.col("cancellations") == 0).height,
    )
    assert expected in CARD


def test_every_departure_and_cancellation_of_the_source_is_counted(sample: pl.DataFrame) -> None:
    assert sample.select("departures", "cancellations").sum().row(0) == (328_521, 8_255)


def test_times_are_whole_hours_of_2013(sample: pl.DataFrame) -> None:
    assert (sample["time"] == sample["time"].dt.truncate("1h")).all()
    assert sample["time"].dt.year().unique().to_list() == [2013]


@each_airport
def test_an_hour_appears_once_save_the_doubled_one(sample: pl.DataFrame, airport: str) -> None:
    readings = of(airport, sample).group_by("time").len()
    assert readings.filter(pl.col("len") > 1).rows() == [(DOUBLED_HOUR, 2)]


@each_airport
def test_the_hour_skipped_in_spring_is_absent_between_its_neighbours(sample: pl.DataFrame, airport: str) -> None:
    around = SKIPPED_HOUR - timedelta(hours=1), SKIPPED_HOUR + timedelta(hours=1)
    assert of(airport, sample).filter(pl.col("time").is_between(*around))["time"].to_list() == list(around)


@each_airport
def test_the_doubled_hour_holds_two_weather_records_and_no_flight(sample: pl.DataFrame, airport: str) -> None:
    doubled = of(airport, sample).filter(pl.col("time") == DOUBLED_HOUR)
    assert doubled.select(WEATHER).null_count().sum_horizontal().item() == 0
    assert doubled.select("departures", "mean_delay", "cancellations").rows() == [(0, None, 0)] * 2
    for reading, row in zip(("daylight-saving", "standard"), doubled.iter_rows(named=True), strict=True):
        assert table_row(airport, reading, row["temperature"], f"{row['wind_speed']:.2f}", row["pressure"]) in CARD


@each_airport
def test_file_order_is_true_time_order(sample_utc: pl.DataFrame, airport: str) -> None:
    steps = of(airport, sample_utc)["instant"].diff().drop_nulls()
    assert (steps >= timedelta(hours=1)).all()


@each_airport
def test_the_card_lists_the_hours_without_a_row(sample_utc: pl.DataFrame, airport: str) -> None:
    known = of(airport, sample_utc)["instant"]
    every = pl.datetime_range(known[0], known[-1], "1h", eager=True)
    absent = every.filter(~every.is_in(known.implode())).dt.convert_time_zone("America/New_York")
    assert listing(airport, absent.to_list()) in CARD


@each_airport
def test_the_card_lists_the_hours_without_a_weather_record(sample: pl.DataFrame, airport: str) -> None:
    holes = without_weather(of(airport, sample)).filter(pl.col("time") <= LAST_WEATHER)["time"]
    assert listing(airport, holes.to_list()) in CARD


@each_airport
def test_the_weather_ends_a_day_before_the_flights(sample: pl.DataFrame, airport: str) -> None:
    after = of(airport, sample).filter(pl.col("time") > LAST_WEATHER)
    assert after.height > 0
    assert without_weather(after).height == after.height


@pytest.mark.parametrize("column", ["mean_delay", *WEATHER])
def test_the_card_counts_the_nulls_of(sample: pl.DataFrame, column: str) -> None:
    nulls = [of(airport, sample)[column].null_count() for airport in ("EWR", "JFK", "LGA")]
    recorded = sum(nulls) - without_weather(sample).height if column in WEATHER else "–"
    assert table_row(f"`{column}`", *nulls, sum(nulls), recorded) in CARD


def test_counts_have_no_nulls_and_are_not_negative(sample: pl.DataFrame) -> None:
    counts = sample.select("departures", "cancellations")
    assert counts.null_count().row(0) == (0, 0)
    assert counts.min().row(0) == (0, 0)


def test_a_mean_delay_exists_exactly_where_a_flight_departed(sample: pl.DataFrame) -> None:
    assert (sample["mean_delay"].is_null() == (sample["departures"] == 0)).all()


@pytest.mark.parametrize(
    ("airport", "hour", "column", "reading"),
    [
        ("EWR", datetime(2013, 2, 12, 3), "wind_speed", 1048.36058),  # noqa: DTZ001
        ("JFK", datetime(2013, 5, 8, 22), "temperature", 13.1),  # noqa: DTZ001
        ("JFK", datetime(2013, 5, 8, 22), "dew_point", 12.02),  # noqa: DTZ001
    ],
)
def test_a_known_outlier_is_still_in(
    sample: pl.DataFrame, airport: str, hour: datetime, column: str, reading: float
) -> None:
    assert of(airport, sample).filter(pl.col("time") == hour)[column].to_list() == [reading]
    assert table_row(airport, f"{hour:%Y-%m-%d %H:%M}", f"`{column}`", reading) in CARD


@pytest.mark.parametrize(
    ("column", "lowest", "highest"),
    [
        ("departures", 0, 38),
        ("mean_delay", -23, 280),
        ("cancellations", 0, 27),
        ("temperature", 10, 101),
        ("dew_point", -10, 79),
        ("humidity", 12, 100),
        ("wind_speed", 0, 1049),
        ("pressure", 983, 1043),
        ("visibility", 0, 10),
        ("precipitation", 0, 1.3),
    ],
)
def test_values_stay_in_the_range_of(sample: pl.DataFrame, column: str, lowest: float, highest: float) -> None:
    assert sample[column].drop_nulls().is_between(lowest, highest).all()


def test_one_wind_alone_is_beyond_a_hurricane(sample: pl.DataFrame) -> None:
    assert sample.filter(pl.col("wind_speed") > 43).height == 1
