from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.errors import DataError, NotFoundError, StorageError
from forecast.installation import Installation
from forecast.jobs import DatasetJob, JobFile
from forecast.lake import TIME
from pipelines.ingest import Finding, conform, ingest

MakeJob = Callable[..., DatasetJob]
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


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


def codes(findings: list[Finding]) -> dict[str, int]:
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
def test_naive_times_are_wall_times_of_the_zone(job_with: MakeJob, zone: str, wall: str, instant: str) -> None:
    rows, findings = conform(raw(wall), job_with(zone=zone), "rows.csv")
    assert rows["time"].to_list() == [utc(instant)]
    assert rows.schema["time"] == TIME
    assert findings == []


def test_aware_times_keep_their_instant_whatever_the_zone_of_the_job(job_with: MakeJob) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").dt.replace_time_zone("Asia/Tokyo"))
    rows, findings = conform(given_rows, job_with(zone=BERLIN), "rows.parquet")
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
def test_times_may_be_text(job_with: MakeJob, text: str, instant: str) -> None:
    rows, _ = conform(raw("2024-07-01 12:00").with_columns(time=pl.lit(text)), job_with(zone=BERLIN), "rows.csv")
    assert rows["time"].to_list() == [utc(instant)]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_may_have_any_precision(tiny_job: DatasetJob, unit: str) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").cast(pl.Datetime(unit)))  # type: ignore[arg-type]
    assert conform(given_rows, tiny_job, "rows.parquet")[0]["time"].to_list() == [utc("2024-07-01T12:00")]


def test_dates_are_midnights(tiny_job: DatasetJob) -> None:
    given_rows = raw("2024-07-01 12:00").with_columns(pl.col("time").cast(pl.Date))
    assert conform(given_rows, tiny_job, "rows.parquet")[0]["time"].to_list() == [utc("2024-07-01T00:00")]


@pytest.mark.parametrize(
    "bad", [["2024-01-01 00:00", "yesterday"], ["yesterday", "today"], ["12", "13"], ["2024-13-01", "2024-14-01"]]
)
def test_what_is_not_a_time_is_named_with_row_and_column(tiny_job: DatasetJob, bad: list[str]) -> None:
    given_rows = raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(time=pl.Series(bad))
    with pytest.raises(DataError, match='in column "time" is not a time') as caught:
        conform(given_rows, tiny_job, "rows.csv")
    assert caught.value.code == "ingest.malformed_time"
    first = next(number for number, text in enumerate(bad, 1) if not text.startswith("2024-01"))
    assert f'row {first}: "{bad[first - 1]}"' in str(caught.value)


def test_numbers_are_not_times(tiny_job: DatasetJob) -> None:
    with pytest.raises(DataError) as caught:
        conform(raw("2024-01-01").with_columns(time=pl.lit(1_704_067_200)), tiny_job, "rows.parquet")
    assert caught.value.code == "ingest.malformed_time"


# --- daylight saving --------------------------------------------------------------------------------------------------

# On 27 October 2024 Berlin's clock goes from 03:00 summer time (UTC+2) back to 02:00 winter time (UTC+1).
BEFORE, DOUBLED, AFTER = "2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 03:00"


def test_of_a_doubled_hour_the_first_row_is_the_earlier_instant(job_with: MakeJob) -> None:
    rows, findings = conform(raw(BEFORE, DOUBLED, DOUBLED, AFTER), job_with(zone=BERLIN), "rows.csv")
    assert loads(rows) == {
        utc(f"2024-10-{day}"): load for load, day in enumerate(["26T23:00", "27T00:00", "27T01:00", "27T02:00"])
    }
    assert codes(findings) == {"ingest.doubled_hour": 2}


def test_a_doubled_hour_that_is_told_once_is_the_earlier_instant(job_with: MakeJob) -> None:
    rows, _ = conform(raw(BEFORE, DOUBLED, AFTER), job_with(zone=BERLIN), "rows.csv")
    assert rows["time"].to_list() == [utc("2024-10-26T23:00"), utc("2024-10-27T00:00"), utc("2024-10-27T02:00")]


def test_the_order_of_the_two_readings_says_which_is_which(job_with: MakeJob) -> None:
    one, _ = conform(raw(DOUBLED, DOUBLED, load=[1.0, 2.0]), job_with(zone=BERLIN), "rows.csv")
    other, _ = conform(raw(DOUBLED, DOUBLED, load=[2.0, 1.0]), job_with(zone=BERLIN), "rows.csv")
    assert (one["load"].to_list(), other["load"].to_list()) == ([1.0, 2.0], [2.0, 1.0])


def test_both_readings_of_a_doubled_hour_may_have_the_same_values(job_with: MakeJob) -> None:
    rows, findings = conform(raw(DOUBLED, DOUBLED, load=[5.0, 5.0]), job_with(zone=BERLIN), "rows.csv")
    assert rows["load"].to_list() == [5.0, 5.0]
    assert "ingest.repeated" not in codes(findings)


def test_each_series_has_its_own_doubled_hour(job_with: MakeJob) -> None:
    given_rows = raw(*[DOUBLED] * 4, site=["east", "west", "east", "west"])
    rows, _ = conform(given_rows, job_with(zone=BERLIN), "rows.csv")
    assert rows.group_by("series").len()["len"].to_list() == [2, 2]


def test_a_file_that_holds_everything_twice_means_what_it_means_once(job_with: MakeJob) -> None:
    once = raw(BEFORE, DOUBLED, DOUBLED, AFTER)
    job = job_with(zone=BERLIN)
    assert conform(pl.concat([once, once]), job, "rows.csv")[0].equals(conform(once, job, "rows.csv")[0])


def test_rows_at_wall_times_that_spring_skips_are_left_out_and_told(job_with: MakeJob) -> None:
    rows, findings = conform(
        raw("2024-03-31 01:00", "2024-03-31 02:00", "2024-03-31 03:00"), job_with(zone=BERLIN), "rows.csv"
    )
    assert rows["time"].to_list() == [utc("2024-03-31T00:00"), utc("2024-03-31T01:00")]
    assert codes(findings) == {"ingest.missing_hour": 1}
    assert "2024-03-31 02:00" in findings[0].first[0]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "UTC", "Australia/Lord_Howe", "Asia/Kolkata"])
def test_a_year_of_wall_times_comes_back_as_a_year_of_instants(job_with: MakeJob, zone: str) -> None:
    instants = pl.datetime_range(utc("2024-01-02T00:00"), utc("2024-12-30T00:00"), "30m", eager=True)
    wall = instants.dt.convert_time_zone(zone).dt.replace_time_zone(None).cast(pl.Datetime("us"))
    rows, _ = conform(raw(*wall.to_list()), job_with(zone=zone, frequency="30m"), "rows.csv")
    assert rows["time"].to_list() == instants.to_list()


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_rows_off_the_grid_are_left_out_and_told(tiny_job: DatasetJob) -> None:
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 00:30", "2024-01-01 01:00:01"), tiny_job, "rows.csv")
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
    job_with: MakeJob, zone: str, frequency: str, start: str, step: timedelta
) -> None:
    times = [datetime.fromisoformat(start) + number * step for number in range(20)]
    job = job_with(zone=zone, frequency=frequency, splits={"validation": "24w", "calibration": "24w", "holdout": "24w"})
    rows, findings = conform(raw(*times), job, "rows.csv")
    assert len(rows) == 20
    assert findings == []


# --- keys and values --------------------------------------------------------------------------------------------------


def test_a_row_that_repeats_another_is_left_out_and_told(tiny_job: DatasetJob) -> None:
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 00:00", load=[1.0, 1.0]), tiny_job, "rows.csv")
    assert rows["load"].to_list() == [1.0]
    assert codes(findings) == {"ingest.repeated": 1}


def test_of_conflicting_rows_the_later_one_stays_and_that_is_told(tiny_job: DatasetJob) -> None:
    rows, findings = conform(raw(*["2024-01-01 00:00"] * 3, load=[1.0, 2.0, 3.0]), tiny_job, "rows.csv")
    assert rows["load"].to_list() == [3.0]
    assert codes(findings) == {"ingest.conflicting": 2}


@pytest.mark.parametrize("site", [None, "", "   "])
def test_a_row_without_a_series_is_left_out_and_told(tiny_job: DatasetJob, site: str | None) -> None:
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 01:00", site=["east", site]), tiny_job, "rows.csv")
    assert rows["series"].to_list() == ["east"]
    assert codes(findings) == {"ingest.null_key": 1}


def test_a_row_without_a_time_is_left_out_and_told(tiny_job: DatasetJob) -> None:
    given_rows = raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(time=pl.Series([datetime(2024, 1, 1), None]))  # noqa: DTZ001
    rows, findings = conform(given_rows, tiny_job, "rows.csv")
    assert len(rows) == 1
    assert codes(findings) == {"ingest.null_key": 1}


def test_a_file_without_any_time_is_told(tiny_job: DatasetJob) -> None:
    given_rows = raw("2024-01-01 00:00").with_columns(time=pl.lit(None, dtype=pl.String))
    rows, findings = conform(given_rows, tiny_job, "rows.csv")
    assert rows.is_empty()
    assert codes(findings) == {"ingest.null_key": 1}


def test_names_of_series_lose_their_outer_blanks_and_may_be_numbers(tiny_job: DatasetJob) -> None:
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(site=pl.lit(" east ")), tiny_job, "rows.csv")
    assert rows["series"].to_list() == ["east"]
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(site=pl.lit(42)), tiny_job, "rows.csv")
    assert rows["series"].to_list() == ["42"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -0.001, 100.5])
def test_a_value_that_cannot_be_becomes_missing_and_is_told(job_with: MakeJob, bad: float) -> None:
    job = job_with(
        channels={
            "load": {"role": "target", "lower": 0, "upper": 100},
            "price": {"role": "target"},
            "wind": {"role": "past"},
        }
    )
    rows, findings = conform(raw("2024-01-01 00:00", "2024-01-01 01:00", load=[bad, 5.0]), job, "rows.csv")
    assert rows["load"].to_list() == [None, 5.0]
    assert rows["price"].to_list() == [1.0, 1.0]
    assert codes(findings) == {"ingest.out_of_range": 1}
    assert f"load={bad:g}" in findings[0].first[0]


def test_values_at_the_bounds_and_missing_ones_are_taken_as_they_are(job_with: MakeJob) -> None:
    job = job_with(
        channels={
            "load": {"role": "target", "lower": 0, "upper": 100},
            "price": {"role": "target"},
            "wind": {"role": "past"},
        }
    )
    times = [f"2024-01-01 0{hour}:00" for hour in range(3)]
    rows, findings = conform(raw(*times, load=[0.0, None, 100.0]), job, "rows.csv")
    assert rows["load"].to_list() == [0.0, None, 100.0]
    assert findings == []


def test_what_is_not_a_number_is_named_with_its_row_and_column(tiny_job: DatasetJob) -> None:
    given_rows = raw("2024-01-01 00:00", "2024-01-01 01:00").with_columns(load=pl.Series(["1.5", "broken"]))
    with pytest.raises(DataError) as caught:
        conform(given_rows, tiny_job, "rows.csv")
    assert caught.value.code == "ingest.not_a_number"
    assert all(
        part in str(caught.value) for part in ('"rows.csv"', "east", "2024-01-01 01:00", '"broken"', 'column "load"')
    )


@pytest.mark.parametrize("missing", ["time", "site", "load", "wind"])
def test_a_missing_column_is_named_with_the_nearest(tiny_job: DatasetJob, missing: str) -> None:
    given_rows = raw("2024-01-01 00:00").rename({missing: f"{missing}s"})
    with pytest.raises(DataError, match=f'no column "{missing}"; did you mean "{missing}s"') as caught:
        conform(given_rows, tiny_job, "rows.csv")
    assert caught.value.code == "ingest.missing_column"


def test_columns_that_the_job_does_not_name_are_left_out(tiny_job: DatasetJob) -> None:
    rows, _ = conform(raw("2024-01-01 00:00").with_columns(humidity=pl.lit(1)), tiny_job, "rows.csv")
    assert rows.columns == ["series", "time", "load", "price", "wind"]


@pytest.mark.parametrize("name", ["first", "second", "again", "row", "count"])
def test_a_channel_may_have_any_name(job_with: MakeJob, name: str) -> None:
    job = job_with(channels={name: {"role": "target"}})
    rows, _ = conform(raw("2024-01-01 00:00").rename({"load": name}), job, "rows.csv")
    assert rows[name].to_list() == [0.0]


def test_a_column_of_values_may_have_any_number_type(tiny_job: DatasetJob) -> None:
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2), pl.Boolean):
        rows, _ = conform(raw("2024-01-01 00:00", load=[1.0]).with_columns(pl.col("load").cast(dtype)), tiny_job, "x")
        assert rows["load"].to_list() == [1.0]


def test_a_column_of_lists_is_not_one_of_numbers(tiny_job: DatasetJob) -> None:
    with pytest.raises(DataError):
        conform(raw("2024-01-01 00:00").with_columns(load=pl.Series([[1.0, 2.0]])), tiny_job, "rows.parquet")


@settings(max_examples=40, deadline=None)
@given(
    hours=st.lists(
        st.tuples(st.integers(0, 500), st.sampled_from(["east", "west"])), min_size=1, max_size=40, unique=True
    ),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_rows_with_different_keys_does_not_matter(hours: list[tuple[int, str]], seed: Random) -> None:
    job = JobFile.model_validate(
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
    rows, findings = conform(frame, job, "x")
    shuffled, also = conform(frame[order], job, "x")
    assert shuffled.equals(rows)
    assert codes(also) == codes(findings)


# --- whole ingestions -------------------------------------------------------------------------------------------------


def test_the_receipt_says_what_came_in(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    receipt = ingest("tiny", installation)
    assert (receipt.rows, receipt.new, receipt.changed, receipt.unchanged, receipt.data_version) == (200, 200, 0, 0, 0)
    assert receipt.series == ("east", "west")
    assert (receipt.first, receipt.last) == (utc("2024-01-01T00:00"), utc("2024-01-05T03:00"))
    assert receipt.findings == ()


def test_the_same_file_a_second_time_changes_nothing(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    first = ingest("tiny", installation)
    again = ingest("tiny", installation)
    assert (again.new, again.changed, again.unchanged) == (0, 0, 200)
    assert again.data_version == first.data_version


def test_a_longer_and_corrected_file_adds_and_changes_only_what_differs(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    ingest("tiny", installation)
    longer = tiny_rows(100)
    extra = longer.filter(pl.col("time") == pl.col("time").max()).with_columns(pl.col("time").dt.offset_by("1h"))
    corrected = longer.with_columns(load=pl.when(pl.int_range(pl.len()) == 7).then(0.5).otherwise("load"))
    make_home(pl.concat([corrected, extra]))
    receipt = ingest("tiny", installation)
    assert (receipt.new, receipt.changed, receipt.unchanged) == (2, 1, 199)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "source.malformed"),
        (b"time,site,load,price,wind\n", "ingest.empty"),
        (b"time,site,load,price,wind\n2024-01-01 00:00,east,1,2,3,4,5\n", "source.malformed"),
        (b'time,site,load,price,wind\n2024-01-01 00:00,"east,1,2,3\n', "source.malformed"),
        (b"time,site,load,price,wind\n2024-01-01 00:00,\xff\xfe,1,2,3\n", "source.malformed"),
        (b"\x00\x01\x02\x03", "ingest.missing_column"),
        (b"time;site;load;price;wind\n2024-01-01 00:00;east;1;2;3\n", "ingest.missing_column"),
        (b"time,site,load,price,wind\n2024-01-01 00:00,east,1,2,x\n", "ingest.not_a_number"),
    ],
)
def test_a_malformed_csv_file_is_told_and_nothing_is_written(
    make_home: Callable[..., Installation], content: bytes, code: str
) -> None:
    installation = make_home()
    (installation.home.path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        ingest("tiny", installation)
    assert caught.value.code == code
    assert not installation.observations("tiny").exists


@pytest.fixture
def parquet_home(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> Installation:
    tiny_document["datasets"]["tiny"]["source"] = {"kind": "parquet", "path": "rows.parquet"}
    installation = make_home(document=tiny_document)
    tiny_rows(100).write_parquet(installation.home.path / "rows.parquet")
    return installation


def test_rows_may_come_as_parquet(parquet_home: Installation) -> None:
    assert ingest("tiny", parquet_home).new == 200


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_parquet_file_is_told_and_nothing_is_written(parquet_home: Installation, kept: float) -> None:
    file = parquet_home.home.path / "rows.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError) as caught:
        ingest("tiny", parquet_home)
    assert caught.value.code == "source.malformed"
    assert not parquet_home.observations("tiny").exists


def test_a_parquet_file_with_a_broken_footer_is_told(parquet_home: Installation) -> None:
    file = parquet_home.home.path / "rows.parquet"
    content = bytearray(file.read_bytes())
    content[-200:-100] = b"\xff" * 100
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        ingest("tiny", parquet_home)
    assert caught.value.code == "source.malformed"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["rows[1]", "rows*", "a b"])
def test_a_source_may_have_any_file_name(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    kind: str,
    name: str,
) -> None:
    tiny_document["datasets"]["tiny"]["source"] = {"kind": kind, "path": f"{name}.{kind}"}
    installation = make_home(document=tiny_document)
    frame, file = tiny_rows(50), installation.home.path / f"{name}.{kind}"
    frame.write_csv(file) if kind == "csv" else frame.write_parquet(file)
    assert ingest("tiny", installation).new == 100


def test_a_source_that_does_not_exist_is_told_with_its_whole_path(make_home: Callable[..., Installation]) -> None:
    installation = make_home()
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        ingest("tiny", installation)
    assert caught.value.code == "source.not_found"
    assert str(installation.home.path / "rows.csv") in str(caught.value)


def test_a_folder_is_not_a_source(make_home: Callable[..., Installation]) -> None:
    installation = make_home()
    (installation.home.path / "rows.csv").mkdir()
    with pytest.raises(StorageError) as caught:
        ingest("tiny", installation)
    assert caught.value.code == "source.unreadable"


def test_a_sample_that_does_not_exist_is_told_with_the_nearest(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any]
) -> None:
    tiny_document["datasets"]["tiny"]["source"]["path"] = "sample:nyc-airport"
    with pytest.raises(NotFoundError, match='did you mean "nyc-airports"'):
        ingest("tiny", make_home(document=tiny_document))


def test_a_path_from_the_root_is_taken_as_it_is(
    make_home: Callable[..., Installation],
    tiny_document: dict[str, Any],
    tiny_rows: Callable[..., pl.DataFrame],
    tmp_path: Path,
) -> None:
    tiny_rows(10).write_csv(tmp_path / "elsewhere.csv")
    tiny_document["datasets"]["tiny"]["source"]["path"] = str(tmp_path / "elsewhere.csv")
    assert ingest("tiny", make_home(document=tiny_document)).new == 20


def test_rows_of_the_future_are_left_out_and_told(
    make_home: Callable[..., Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    rows = tiny_rows(48)
    wrong = rows.head(1).with_columns(pl.col("time").dt.offset_by("100y"))
    receipt = ingest("tiny", make_home(pl.concat([rows, wrong])))
    assert codes(list(receipt.findings))["ingest.in_the_future"] == 1
    assert receipt.last is not None
    assert receipt.last.year == 2024


def test_what_is_missing_on_the_grid_is_told(
    make_home: Callable[..., Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    rows = tiny_rows(48)
    hole = pl.col("time").is_between(rows["time"][10], rows["time"][13])
    receipt = ingest("tiny", make_home(rows.with_columns(load=pl.when(~hole).then("load"))))
    assert {finding.code: finding.first for finding in receipt.findings}["ingest.filled"] == ("load 8",)
