from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.checks import CHECKS
from forecast.config.dataset import DatasetConfig
from forecast.config.file import ConfigFile
from forecast.errors import DataError
from forecast.lake.schemas import TIME
from forecast.ledger.receipts import IngestFinding
from forecast.vocabulary import Action
from pipelines.ingestion.checked_batch import CheckedBatch
from pipelines.ingestion.duplicates import resolve_duplicates
from pipelines.ingestion.row_checks import check_rows
from pipelines.sources.batch import Batch

MakeJob = Callable[..., DatasetConfig]
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def raw(
    *times: str | datetime, load: list[float | None] | None = None, site: list[str | None] | None = None
) -> pl.DataFrame:
    """Rows as a source gives them, one per time."""
    count = len(times)
    parsed = pl.Series(times).str.to_datetime(time_unit="us") if isinstance(times[0], str) else pl.Series(times)
    return pl.DataFrame(
        {
            "time": parsed,
            "site": pl.Series(site or ["east"] * count, dtype=pl.String),
            "load": pl.Series(load or [float(i) for i in range(count)], dtype=pl.Float64),
            "price": [1.0] * count,
            "wind": [2.0] * count,
        }
    )


def checked(frame: pl.DataFrame, config: DatasetConfig, name: str = "rows.csv") -> CheckedBatch:
    """Check rows and resolve duplicate keys."""
    batch = check_rows(Batch.of(frame, "tiny", config, name, ""), config, NOW)
    resolve_duplicates(batch, config.source)
    return batch


def conform(frame: pl.DataFrame, config: DatasetConfig, name: str) -> tuple[pl.DataFrame, list[IngestFinding]]:
    batch = checked(frame, config, name)
    return batch.rows.drop("row"), batch.findings


def codes(findings: list[IngestFinding]) -> dict[str, int]:
    return {finding.code: finding.count for finding in findings}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def loads(rows: pl.DataFrame) -> dict[datetime, float | None]:
    return dict(zip(rows["time"], rows["load"], strict=True))


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "wall", "instant"),
    [
        ("UTC", "2024-07-01 12:00", "2024-07-01T12:00"),
        (BERLIN, "2024-07-01 12:00", "2024-07-01T10:00"),
        (BERLIN, "2024-01-01 12:00", "2024-01-01T11:00"),
        (NEW_YORK, "2024-01-01 12:00", "2024-01-01T17:00"),
        ("Asia/Kolkata", "2024-01-01 12:00", "2024-01-01T06:30"),
        ("Australia/Adelaide", "2024-01-01 12:00", "2024-01-01T01:30"),
    ],
)
def test_naive_times_are_wall_times_of_the_zone(config_with: MakeJob, zone: str, wall: str, instant: str) -> None:
    rows, findings = conform(raw(wall), config_with(zone=zone), "rows.csv")
    assert rows["time"].to_list() == [utc(instant)]
    assert rows.schema["time"] == TIME
    assert findings == []


def test_aware_times_keep_their_instant_whatever_the_zone_of_the_job(config_with: MakeJob) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").dt.replace_time_zone("Asia/Tokyo"))
    rows, findings = conform(given_rows, config_with(zone=BERLIN), "rows.parquet")
    assert rows["time"].to_list() == [utc("2024-07-01T03:00")]
    assert findings == []


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-07-01 12:00:00", "2024-07-01T10:00"),
        ("2024-07-01 12:00", "2024-07-01T10:00"),
        ("2024-07-01T12:00:00", "2024-07-01T10:00"),
        ("2024-07-01", "2024-06-30T22:00"),
        ("2024-07-01T12:00:00Z", "2024-07-01T12:00"),
        ("2024-07-01T12:00:00+05:00", "2024-07-01T07:00"),
    ],
)
def test_times_may_be_text(config_with: MakeJob, text: str, instant: str) -> None:
    rows, _ = conform(raw("2024-07-01 12:00").with_columns(time=pl.lit(text)), config_with(zone=BERLIN), "rows.csv")
    assert rows["time"].to_list() == [utc(instant)]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_may_have_any_precision(tiny_config: DatasetConfig, unit: str) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").cast(pl.Datetime(unit)))  # type: ignore[arg-type]
    assert conform(given_rows, tiny_config, "rows.parquet")[0]["time"].to_list() == [utc("2024-07-01T12:00")]


def test_dates_are_midnights(tiny_config: DatasetConfig) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").cast(pl.Date))
    assert conform(given_rows, tiny_config, "rows.parquet")[0]["time"].to_list() == [utc("2024-07-01T00:00")]


@pytest.mark.parametrize(
    "bad", [["2024-01-01 00:00", "yesterday"], ["2024-01-01", "2024-13-01"], ["2024-01-01 00:00", "12"]]
)
def test_a_malformed_time_is_quarantined_with_its_place(tiny_config: DatasetConfig, bad: list[str]) -> None:
    batch = checked(raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(time=pl.Series(bad)), tiny_config)
    assert len(batch.rows) == 1
    assert codes(batch.findings) == {"ingest.malformed_time": 1}
    assert f"rows.csv row 2: east {bad[1]}" in batch.findings[0].first[0]
    assert batch.quarantined.select("row", "time", "code").rows() == [(2, bad[1], "ingest.malformed_time")]
    assert '"load":"1.0"' in batch.quarantined["content"][0]


def test_times_may_be_written_in_a_format_that_the_job_names(config_with: MakeJob) -> None:
    config = config_with(time_format="%d.%m.%Y %H:%M")
    rows, findings = conform(raw("2024-01-01 00:00").with_columns(time=pl.lit("01.02.2024 05:00")), config, "rows.csv")
    assert rows["time"].to_list() == [utc("2024-02-01T05:00")]
    assert findings == []


def test_numbers_are_not_times(tiny_config: DatasetConfig) -> None:
    with pytest.raises(DataError) as caught:
        conform(raw("2024-01-01").with_columns(time=pl.lit(1_704_067_200)), tiny_config, "rows.parquet")
    assert caught.value.code == "ingest.malformed_time"


# --- daylight saving --------------------------------------------------------------------------------------------------

# On 27 October 2024 Berlin's clock goes from 03:00 summer time (UTC+2) back to 02:00 winter time (UTC+1).
BEFORE, DOUBLED, AFTER = "2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 03:00"


def test_of_a_doubled_hour_the_first_row_is_the_earlier_instant(config_with: MakeJob) -> None:
    rows, findings = conform(raw(BEFORE, DOUBLED, DOUBLED, AFTER), config_with(zone=BERLIN), "rows.csv")
    assert loads(rows) == {
        utc(f"2024-10-{day}"): load for load, day in enumerate(["26T23:00", "27T00:00", "27T01:00", "27T02:00"])
    }
    assert codes(findings) == {"ingest.doubled_hour": 2}


def test_a_doubled_hour_that_occurs_once_is_the_earlier_instant(config_with: MakeJob) -> None:
    rows, _ = conform(raw(BEFORE, DOUBLED, AFTER), config_with(zone=BERLIN), "rows.csv")
    assert rows["time"].to_list() == [utc("2024-10-26T23:00"), utc("2024-10-27T00:00"), utc("2024-10-27T02:00")]


def test_the_order_of_the_two_readings_says_which_is_which(config_with: MakeJob) -> None:
    one, _ = conform(raw(DOUBLED, DOUBLED, load=[1.0, 2.0]), config_with(zone=BERLIN), "rows.csv")
    other, _ = conform(raw(DOUBLED, DOUBLED, load=[2.0, 1.0]), config_with(zone=BERLIN), "rows.csv")
    assert (one["load"].to_list(), other["load"].to_list()) == ([1.0, 2.0], [2.0, 1.0])


def test_both_readings_of_a_doubled_hour_may_have_the_same_values(config_with: MakeJob) -> None:
    rows, findings = conform(raw(DOUBLED, DOUBLED, load=[5.0, 5.0]), config_with(zone=BERLIN), "rows.csv")
    assert rows["load"].to_list() == [5.0, 5.0]
    assert "ingest.repeated" not in codes(findings)


def test_each_series_has_its_own_doubled_hour(config_with: MakeJob) -> None:
    given_rows = raw(*[DOUBLED] * 4, site=["east", "west", "east", "west"])
    rows, _ = conform(given_rows, config_with(zone=BERLIN), "rows.csv")
    assert rows.group_by("series").len()["len"].to_list() == [2, 2]


def test_a_file_that_holds_everything_twice_means_what_it_means_once(config_with: MakeJob) -> None:
    once = raw(BEFORE, DOUBLED, DOUBLED, AFTER)
    config = config_with(zone=BERLIN)
    assert conform(pl.concat([once, once]), config, "rows.csv")[0].equals(conform(once, config, "rows.csv")[0])


def test_rows_at_wall_times_that_spring_skips_are_left_out_and_reported(config_with: MakeJob) -> None:
    rows, findings = conform(
        raw("2024-03-31 01:00", "2024-03-31 02:00", "2024-03-31 03:00"), config_with(zone=BERLIN), "rows.csv"
    )
    assert rows["time"].to_list() == [utc("2024-03-31T00:00"), utc("2024-03-31T01:00")]
    assert codes(findings) == {"ingest.missing_hour": 1}
    assert "2024-03-31 02:00" in findings[0].first[0]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "UTC", "Australia/Lord_Howe", "Asia/Kolkata"])
def test_a_year_of_wall_times_comes_back_as_a_year_of_instants(config_with: MakeJob, zone: str) -> None:
    instants = pl.datetime_range(utc("2024-01-02T00:00"), utc("2024-12-30T00:00"), "30m", eager=True)
    wall = instants.dt.convert_time_zone(zone).dt.replace_time_zone(None).cast(pl.Datetime("us"))
    rows, _ = conform(raw(*wall.to_list()), config_with(zone=zone, frequency="30m"), "rows.csv")
    assert rows["time"].to_list() == instants.to_list()


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_rows_off_the_grid_are_left_out_and_reported(tiny_config: DatasetConfig) -> None:
    rows, findings = conform(
        raw("2024-01-01 00:00", "2024-01-01 00:30", "2024-01-01 01:00:01"), tiny_config, "rows.csv"
    )
    assert rows["time"].to_list() == [utc("2024-01-01T00:00")]
    assert codes(findings) == {"ingest.off_grid": 2}


@pytest.mark.parametrize(
    ("zone", "frequency", "start", "step"),
    [
        ("UTC", "1d", "2024-01-01", timedelta(days=1)),
        (NEW_YORK, "1d", "2024-01-01", timedelta(days=1)),
        (BERLIN, "1d", "2024-03-20", timedelta(days=1)),
        ("UTC", "1w", "2024-01-01", timedelta(weeks=1)),  # Mondays; the epoch was a Thursday
        ("Asia/Kolkata", "1h", "2024-01-01", timedelta(hours=1)),
        ("Asia/Kolkata", "1d", "2024-01-01", timedelta(days=1)),
        ("Asia/Kathmandu", "1h", "2024-01-01", timedelta(hours=1)),
    ],
)
def test_rows_at_full_local_steps_are_on_the_grid(
    config_with: MakeJob, zone: str, frequency: str, start: str, step: timedelta
) -> None:
    times = [datetime.fromisoformat(start) + number * step for number in range(20)]
    config = config_with(
        zone=zone, frequency=frequency, splits={"validation": "24w", "calibration": "24w", "holdout": "24w"}
    )
    rows, findings = conform(raw(*times), config, "rows.csv")
    assert len(rows) == 20
    assert findings == []


# --- keys and values --------------------------------------------------------------------------------------------------


def test_a_row_that_repeats_another_is_left_out_and_reported(tiny_config: DatasetConfig) -> None:
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 00:00", load=[1.0, 1.0]), tiny_config, "rows.csv")
    assert rows["load"].to_list() == [1.0]
    assert codes(findings) == {"ingest.repeated": 1}


def test_of_conflicting_rows_the_later_one_stays_and_that_is_reported(tiny_config: DatasetConfig) -> None:
    rows, findings = conform(raw(*["2024-01-01 00:00"] * 3, load=[1.0, 2.0, 3.0]), tiny_config, "rows.csv")
    assert rows["load"].to_list() == [3.0]
    assert codes(findings) == {"ingest.conflicting": 2}


@pytest.mark.parametrize("site", [None, "", "   "])
def test_a_row_without_a_series_is_left_out_and_reported(tiny_config: DatasetConfig, site: str | None) -> None:
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 01:00", site=["east", site]), tiny_config, "rows.csv")
    assert rows["series"].to_list() == ["east"]
    assert codes(findings) == {"ingest.null_key": 1}


def test_a_row_without_a_time_is_left_out_and_reported(tiny_config: DatasetConfig) -> None:
    given_rows = raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(time=pl.Series([datetime(2024, 1, 1), None]))  # noqa: DTZ001
    rows, findings = conform(given_rows, tiny_config, "rows.csv")
    assert len(rows) == 1
    assert codes(findings) == {"ingest.null_key": 1}


def test_a_file_without_any_time_is_reported(tiny_config: DatasetConfig) -> None:
    given_rows = raw("2024-01-01 00:00").with_columns(time=pl.lit(None, dtype=pl.String))
    rows, findings = conform(given_rows, tiny_config, "rows.csv")
    assert rows.is_empty()
    assert codes(findings) == {"ingest.null_key": 1}


def test_names_of_series_lose_their_outer_blanks_and_may_be_numbers(tiny_config: DatasetConfig) -> None:
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(site=pl.lit(" east ")), tiny_config, "rows.csv")
    assert rows["series"].to_list() == ["east"]
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(site=pl.lit(42)), tiny_config, "rows.csv")
    assert rows["series"].to_list() == ["42"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (float("nan"), "not_finite"),
        (float("inf"), "not_finite"),
        (float("-inf"), "not_finite"),
        (-999.0, "sentinel"),
        (-0.001, "out_of_range"),
        (100.5, "out_of_range"),
    ],
)
def test_a_value_that_cannot_be_becomes_missing_and_is_reported(config_with: MakeJob, bad: float, code: str) -> None:
    config = bounded(config_with, sentinels=[-999])
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 01:00", load=[bad, 5.0]), config, "rows.csv")
    assert rows["load"].to_list() == [None, 5.0]
    assert rows["price"].to_list() == [1.0, 1.0]
    assert codes(findings) == {f"ingest.{code}": 1}
    assert f"load={bad:g}" in findings[0].first[0]


def bounded(config_with: MakeJob, checks: dict[str, str] | None = None, **load: Any) -> DatasetConfig:
    channels = {
        "load": {"role": "target", "lower": 0, "upper": 100, **load},
        "price": {"role": "target"},
        "wind": {"role": "past"},
    }
    return config_with(channels=channels, checks=checks or {})


@pytest.mark.parametrize(
    ("checks", "clip", "left"),
    [
        ({}, True, [0.0, 100.0, 5.0]),
        ({"out_of_range": "quarantine"}, False, [5.0]),
        ({"out_of_range": "warn"}, False, [-3.0, 105.0, 5.0]),
    ],
)
def test_the_action_on_a_value_out_of_range_is_configured(
    config_with: MakeJob, checks: dict[str, str], left: list[float], *, clip: bool
) -> None:
    config = bounded(config_with, checks, clip=clip)
    times = [f"2024-01-01 0{hour}:00" for hour in range(3)]
    rows, findings = conform(raw(*times, load=[-3.0, 105.0, 5.0]), config, "rows.csv")
    assert rows["load"].to_list() == left
    assert codes(findings) == {"ingest.out_of_range": 2}


def test_values_in_the_sources_unit_are_converted_before_the_bounds_are_checked(config_with: MakeJob) -> None:
    config = bounded(config_with, unit="degC", source_unit="degF")
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 01:00", load=[212.0, 0.0]), config, "rows.csv")
    assert rows["load"][0] == pytest.approx(100)
    assert rows["load"][1] is None
    assert codes(findings) == {"ingest.out_of_range": 1}


def test_values_at_the_bounds_and_missing_ones_are_taken_as_they_are(config_with: MakeJob) -> None:
    config = config_with(
        channels={
            "load": {"role": "target", "lower": 0, "upper": 100},
            "price": {"role": "target"},
            "wind": {"role": "past"},
        }
    )
    times = [f"2024-01-01 0{hour}:00" for hour in range(3)]
    rows, findings = conform(raw(*times, load=[0.0, None, 100.0]), config, "rows.csv")
    assert rows["load"].to_list() == [0.0, None, 100.0]
    assert findings == []


def broken_number() -> pl.DataFrame:
    return raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(load=pl.Series(["1.5", "broken"]))


def test_a_row_with_a_malformed_number_is_quarantined_with_its_place(tiny_config: DatasetConfig) -> None:
    batch = checked(broken_number(), tiny_config)
    assert batch.rows["load"].to_list() == [1.5]
    assert batch.findings[0].code == "ingest.not_a_number"
    assert batch.findings[0].first == ("rows.csv row 2: east 2024-01-01 01:00:00+00:00 load=broken",)
    assert batch.quarantined["row"].to_list() == [2]


def test_a_value_that_is_not_a_number_becomes_missing_if_so_configured(config_with: MakeJob) -> None:
    batch = checked(broken_number(), config_with(checks={"not_a_number": "repair"}))
    assert batch.rows["load"].to_list() == [1.5, None]
    assert batch.rows["price"].to_list() == [1.0, 1.0]
    assert batch.quarantined.is_empty()


def test_a_value_that_is_not_a_number_rejects_the_batch_if_so_configured(config_with: MakeJob) -> None:
    with pytest.raises(DataError, match="load=broken") as caught:
        checked(broken_number(), config_with(checks={"not_a_number": "reject"}))
    assert caught.value.code == "ingest.not_a_number"


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_cell_is_a_missing_value(tiny_config: DatasetConfig, empty: str | None) -> None:
    frame = raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(load=pl.Series(["1.5", empty], dtype=pl.String))
    rows, findings = conform(frame, tiny_config, "rows.csv")
    assert rows["load"].to_list() == [1.5, None]
    assert findings == []


def test_columns_that_the_job_does_not_name_are_left_out(tiny_config: DatasetConfig) -> None:
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(humidity=pl.lit(1)), tiny_config, "rows.csv")
    assert rows.columns == ["series", "time", "load", "price", "wind"]


@pytest.mark.parametrize("name", ["first", "second", "again", "arrival", "count"])
def test_a_channel_may_have_any_name(config_with: MakeJob, name: str) -> None:
    config = config_with(channels={name: {"role": "target"}})
    rows, _ = conform(raw("2024-01-01 00:00").rename({"load": name}), config, "rows.csv")
    assert rows[name].to_list() == [0.0]


def test_a_column_of_values_may_have_any_number_type(tiny_config: DatasetConfig) -> None:
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2), pl.Boolean):
        rows, _ = conform(
            raw("2024-01-01 00:00", load=[1.0]).with_columns(pl.col("load").cast(dtype)), tiny_config, "x"
        )
        assert rows["load"].to_list() == [1.0]


def test_a_column_of_lists_is_not_one_of_numbers(tiny_config: DatasetConfig) -> None:
    with pytest.raises(DataError):
        conform(raw("2024-01-01 00:00").with_columns(load=pl.Series([[1.0, 2.0]])), tiny_config, "rows.parquet")


@settings(max_examples=40, deadline=None)
@given(
    hours=st.lists(
        st.tuples(st.integers(0, 500), st.sampled_from(["east", "west"])), min_size=1, max_size=40, unique=True
    ),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_rows_with_different_keys_does_not_matter(hours: list[tuple[int, str]], seed: Random) -> None:
    config = ConfigFile.model_validate(
        {
            "datasets": {
                "x": {
                    "source": {"kind": "csv", "path": "x"},
                    "frequency": "1h",
                    "zone": BERLIN,
                    "series": "site",
                    "horizons": [1],
                    "lookback": 1,
                    "season": 1,
                    "models": ["linear"],
                    "channels": {name: {"role": "target", "lower": 5} for name in ("load", "price", "wind")},
                }
            }
        }
    ).datasets["x"]
    times = [datetime(2024, 3, 25) + timedelta(hours=hour) for hour, _ in hours]  # noqa: DTZ001  # crosses the hour that spring skips
    frame = raw(*times, site=[site for _, site in hours])
    order = list(range(len(frame)))
    seed.shuffle(order)
    rows, findings = conform(frame, config, "x")
    shuffled, also = conform(frame[order], config, "x")
    assert shuffled.equals(rows)
    assert codes(also) | {"ingest.unordered": 0} == codes(findings) | {"ingest.unordered": 0}


# --- more that may be wrong -------------------------------------------------------------------------------------------

MORE: list[tuple[str, pl.DataFrame, dict[str, Any]]] = [
    ("implausible_time", raw("0024-01-01 00:00", "2024-01-01 00:00"), {}),
    ("malformed_series", raw("2024-01-01", "2024-01-01", site=["a\x07b", "east"]), {}),
    ("malformed_series", raw("2024-01-01", "2024-01-01", site=["x" * 201, "east"]), {}),
    ("unknown_series", raw("2024-01-01", "2024-01-01", site=["esat", "east"]), {"known_series": ["east", "west"]}),
    ("in_the_future", raw("2031-01-01", "2024-01-01"), {}),
    ("off_grid", raw("2024-01-01 00:20", "2024-01-01 01:00"), {}),
    ("missing_hour", raw("2024-03-31 02:30", "2024-03-31 04:00"), {"zone": BERLIN, "frequency": "30m"}),
    ("null_key", raw("2024-01-01", "2024-01-01", site=["", "east"]), {}),
]


@pytest.mark.parametrize(("name", "frame", "fields"), MORE)
def test_a_wrong_row_is_quarantined_and_the_others_go_in(
    config_with: MakeJob, name: str, frame: pl.DataFrame, fields: dict[str, Any]
) -> None:
    batch = checked(frame, config_with(**fields))
    assert codes(batch.findings) == {f"ingest.{name}": 1}
    assert batch.findings[0].action is Action.QUARANTINE
    assert batch.quarantined.select("row", "code").rows() == [(1, f"ingest.{name}")]
    assert len(batch.rows) == 1


@pytest.mark.parametrize(("name", "frame", "fields"), MORE)
def test_a_wrong_row_refuses_the_batch_if_the_job_says_so(
    config_with: MakeJob, name: str, frame: pl.DataFrame, fields: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"rows\.csv row 1") as caught:
        checked(frame, config_with(**fields, checks={name: "reject"}))
    assert caught.value.code == f"ingest.{name}"


@pytest.mark.parametrize(
    ("name", "frame", "fields", "repaired"),
    [
        ("off_grid", raw("2024-01-01 00:50"), {}, "2024-01-01T01:00"),
        ("missing_hour", raw("2024-03-31 02:30"), {"zone": BERLIN, "frequency": "30m"}, "2024-03-31T01:30"),
    ],
)
def test_a_wrong_time_is_mended_if_the_job_says_so(
    config_with: MakeJob, name: str, frame: pl.DataFrame, fields: dict[str, Any], repaired: str
) -> None:
    batch = checked(frame, config_with(**fields, checks={name: "repair"}))
    assert batch.rows["time"].to_list() == [utc(repaired)]
    assert CHECKS[name].repair in batch.findings[0].message


@pytest.mark.parametrize(("rule", "instant"), [("earlier", "27T00:00"), ("later", "27T01:00")])
def test_a_doubled_hour_may_always_mean_one_of_the_two(config_with: MakeJob, rule: str, instant: str) -> None:
    rows, _ = conform(raw("2024-10-27 02:00"), config_with(zone=BERLIN, doubled_hour=rule), "rows.csv")
    assert rows["time"].to_list() == [utc(f"2024-10-{instant}")]


def test_rows_out_of_order_are_reported_and_sorted(tiny_config: DatasetConfig) -> None:
    rows, findings = conform(raw("2024-01-01 01:00", "2024-01-01 00:00", "2024-01-01 02:00"), tiny_config, "rows.csv")
    assert rows["load"].to_list() == [1.0, 0.0, 2.0]
    assert codes(findings) == {"ingest.unordered": 1}


def test_a_batch_that_is_wrong_in_too_many_rows_is_refused_whole(tiny_config: DatasetConfig) -> None:
    quarters = [datetime(2024, 1, 1) + timedelta(minutes=15 * step) for step in range(100)]  # noqa: DTZ001
    with pytest.raises(DataError, match="75 of 100 rows cannot be used") as caught:
        checked(raw(*quarters), tiny_config)
    assert caught.value.code == "ingest.off_grid"
    assert "frequency" in caught.value.remedy


def test_findings_about_a_request_do_not_repeat_its_values(tiny_config: DatasetConfig) -> None:
    batch = Batch.of(broken_number(), "tiny", tiny_config, "body", "")
    batch = check_rows(batch, tiny_config, NOW, echo=False)
    assert batch.findings[0].first == ("body row 2 load",)


# --- versions ---------------------------------------------------------------------------------------------------------


def versioned(versions: pl.Series, loads: list[float | None]) -> pl.DataFrame:
    return raw(*["2024-01-01 00:00"] * len(versions), load=loads).with_columns(versions.alias("updated"))


@pytest.mark.parametrize(
    "versions",
    [
        pl.Series([1, 3, 2]),
        pl.Series(["1", "3", "2"]),
        pl.Series(["2024-01-01 01:00", "2024-01-03 01:00", "2024-01-02 01:00"]),
        pl.Series([datetime(2024, 1, day, tzinfo=UTC) for day in (1, 3, 2)]),
    ],
)
def test_the_newest_version_stays_wherever_it_stands(config_with: MakeJob, versions: pl.Series) -> None:
    config = config_with(source={"kind": "csv", "path": "rows.csv", "version": "updated"})
    rows, findings = conform(versioned(versions, [1.0, 3.0, 2.0]), config, "rows.csv")
    assert rows["load"].to_list() == [3.0]
    assert rows.schema["version"] == pl.Int64
    assert codes(findings) == {"ingest.conflicting": 2}


def test_a_malformed_version_is_quarantined(config_with: MakeJob) -> None:
    config = config_with(source={"kind": "csv", "path": "rows.csv", "version": "updated"})
    rows, findings = conform(versioned(pl.Series(["1", "new"]), [1.0, 2.0]), config, "rows.csv")
    assert rows["load"].to_list() == [1.0]
    assert codes(findings) == {"ingest.malformed_version": 1}


@settings(max_examples=30, deadline=None)
@given(values=st.permutations([1.0, 2.0, 3.0, 4.0]))
def test_by_digest_the_same_row_stays_whatever_the_order(values: list[float]) -> None:
    config = ConfigFile.model_validate({"datasets": {"x": folder_job()}}).datasets["x"]
    rows, _ = conform(raw(*["2024-01-01 00:00"] * 4, load=list(values)), config, "rows.csv")
    expected, _ = conform(raw(*["2024-01-01 00:00"] * 4, load=[1.0, 2.0, 3.0, 4.0]), config, "rows.csv")
    assert rows.equals(expected)


def folder_job() -> dict[str, Any]:
    return {
        "source": {"kind": "csv", "path": "inbox/*.csv"},
        "frequency": "1h",
        "series": "site",
        "horizons": [1],
        "lookback": 1,
        "season": 1,
        "models": ["linear"],
        "channels": {name: {"role": "target"} for name in ("load", "price", "wind")},
    }


# --- partial rows -----------------------------------------------------------------------------------------------------


def partial_job(config_with: MakeJob, **source: Any) -> DatasetConfig:
    return config_with(source={"kind": "csv", "path": "in/", "partial": True, **source})


def test_rows_that_have_some_channels_each_become_one(config_with: MakeJob) -> None:
    frame = raw(*["2024-01-01 00:00"] * 2, load=[1.0, None]).with_columns(price=pl.Series([None, 2.0]))
    rows, findings = conform(frame, partial_job(config_with), "rows.csv")
    assert rows.select("load", "price", "wind").rows() == [(1.0, 2.0, 2.0)]
    assert findings == []


def test_a_newer_version_that_tells_one_channel_leaves_the_others(config_with: MakeJob) -> None:
    frame = raw(*["2024-01-01 00:00"] * 2, load=[5.0, 1.0]).with_columns(
        price=pl.Series([None, 2.0]), updated=pl.Series([9, 1])
    )
    rows, findings = conform(frame, partial_job(config_with, version="updated"), "rows.csv")
    assert rows.select("version", "load", "price").rows() == [(9, 5.0, 2.0)]
    assert codes(findings) == {"ingest.conflicting": 1}


def test_a_column_that_a_partial_source_lacks_is_missing_not_wrong(config_with: MakeJob) -> None:
    rows, findings = conform(raw("2024-01-01 00:00").drop("price"), partial_job(config_with), "rows.csv")
    assert rows["price"].to_list() == [None]
    assert findings == []
    with pytest.raises(DataError, match='no column "load"'):
        conform(raw("2024-01-01 00:00").drop("price", "load", "wind"), partial_job(config_with), "rows.csv")


def test_long_rows_of_one_key_in_several_files_become_one(config_with: MakeJob) -> None:
    config = config_with(source={"kind": "csv", "path": "in/", "layout": "long"})
    long = pl.DataFrame(
        {
            "time": ["2024-01-01 00:00"] * 3,
            "site": ["east"] * 3,
            "channel": ["load", "price", "wind"],
            "value": [1, 2, 3],
        }
    )
    long = long.with_columns(time=pl.lit("2024-01-01 00:00"))
    parts = [
        check_rows(Batch.of(part, "tiny", config, "part.csv", ""), config, NOW).rows for part in long.iter_slices(1)
    ]
    batch = CheckedBatch(Batch("tiny", pl.concat(parts, how="diagonal"), ""), config.checks)
    resolve_duplicates(batch, config.source)
    assert batch.rows.select("load", "price", "wind").rows() == [(1.0, 2.0, 3.0)]
