import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecast.errors import ConfigError, DataError, StorageError
from forecast.installation import Installation
from forecast.ledger.receipts import IngestFinding, Receipt
from pipelines.ingestion.ingest import ingest, validate
from pipelines.sources.frames import from_frame


def codes(findings: tuple[IngestFinding, ...]) -> dict[str, int]:
    return {finding.code: finding.count for finding in findings}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_receipt_says_what_came_in(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    receipt = ingest(installation.dataset("tiny"))
    assert (receipt.rows, receipt.new, receipt.changed, receipt.unchanged, receipt.data_version) == (200, 200, 0, 0, 0)
    assert receipt.series == ("east", "west")
    assert (receipt.first, receipt.last) == (utc("2024-01-01T00:00"), utc("2024-01-05T03:00"))
    assert receipt.findings == ()


def test_the_same_file_a_second_time_changes_nothing(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    first = ingest(installation.dataset("tiny"))
    again = ingest(installation.dataset("tiny"))
    assert (again.new, again.changed, again.unchanged) == (0, 0, 200)
    assert again.data_version == first.data_version


def test_a_longer_and_corrected_file_adds_and_changes_only_what_differs(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    ingest(installation.dataset("tiny"))
    longer = tiny_rows(100)
    extra = longer.filter(pl.col("time") == pl.col("time").max()).with_columns(pl.col("time").dt.offset_by("1h"))
    corrected = longer.with_columns(load=pl.when(pl.int_range(pl.len()) == 7).then(0.5).otherwise("load"))
    make_home(pl.concat([corrected, extra]))
    receipt = ingest(installation.dataset("tiny"))
    assert (receipt.new, receipt.changed, receipt.unchanged) == (2, 1, 199)


def test_rows_of_the_future_are_left_out_and_reported(
    make_home: Callable[..., Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    rows = tiny_rows(48)
    wrong = rows.head(1).with_columns(pl.col("time").dt.offset_by("100y"))
    receipt = ingest(make_home(pl.concat([rows, wrong])).dataset("tiny"))
    assert codes(receipt.findings)["ingest.in_the_future"] == 1
    assert receipt.last is not None
    assert receipt.last.year == 2024


def test_values_missing_on_the_grid_are_reported(
    make_home: Callable[..., Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    rows = tiny_rows(48)
    hole = pl.col("time").is_between(rows["time"][10], rows["time"][13])
    receipt = ingest(make_home(rows.with_columns(load=pl.when(~hole).then("load"))).dataset("tiny"))
    assert {finding.code: finding.first for finding in receipt.findings}["ingest.filled"] == ("load 8",)


@pytest.fixture
def inbox(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> Installation:
    """A home whose source is a folder of files, some of them dirty."""
    tiny_document["datasets"]["tiny"]["source"] = {"kind": "csv", "path": "inbox/"}
    installation = make_home(document=tiny_document)
    folder = installation.home.path / "inbox"
    folder.mkdir()
    rows = tiny_rows(96).with_columns(day=pl.col("time").dt.date())
    for day, part in rows.partition_by("day", as_dict=True, include_key=False).items():
        part.write_csv(folder / f"{day[0]}.csv")
    (folder / "broken.csv").write_bytes(b'time,site,load,price,wind\n"2024-01-01')
    dirty = ["2024-01-01 00:00:00,east,1,1,1", "never,east,1,1,1", "2024-01-01 01:00:00,,1,1,1"]
    (folder / "correction.csv").write_text("\n".join(["time,site,load,price,wind", *dirty]), encoding="utf-8")
    return installation


def test_a_folder_of_dirty_files_comes_in_and_a_second_time_changes_nothing(inbox: Installation) -> None:
    first = ingest(inbox.dataset("tiny"))
    assert (first.rows, first.new, first.quarantined) == (192, 192, 3)
    assert codes(first.findings) == {
        "ingest.conflicting": 1,
        "ingest.malformed_time": 1,
        "ingest.null_key": 1,
        "ingest.unreadable_file": 1,
    }
    assert "broken.csv" in {finding.code: finding for finding in first.findings}["ingest.unreadable_file"].first[0]
    again = ingest(inbox.dataset("tiny"))
    assert (again.new, again.changed, again.unchanged, again.quarantined) == (0, 0, 192, 0)
    assert again.data_version == first.data_version
    aside = inbox.dataset("tiny").quarantine.read().select("source", "row", "code").sort("code").rows()
    assert aside == [
        ("inbox/correction.csv", 2, "ingest.malformed_time"),
        ("inbox/correction.csv", 3, "ingest.null_key"),
        ("inbox/broken.csv", 0, "ingest.unreadable_file"),
    ]


def test_of_a_folder_the_order_in_which_files_come_does_not_matter(
    inbox: Installation, make_home: Callable[..., Installation], tiny_document: dict[str, Any], tmp_path: Path
) -> None:
    ingest(inbox.dataset("tiny"))
    other = make_home(document=tiny_document, folder=tmp_path / "other")
    (other.home.path / "inbox").mkdir()
    files = sorted((inbox.home.path / "inbox").iterdir(), reverse=True)
    for file in files:
        (other.home.path / "inbox" / file.name).write_bytes(file.read_bytes())
        if file.name != "broken.csv":
            ingest(other.dataset("tiny"))
    assert other.dataset("tiny").observations.read().equals(inbox.dataset("tiny").observations.read())


def test_one_file_that_cannot_be_read_refuses_all_if_the_job_says_so(
    inbox: Installation, make_home: Callable[..., Installation], tiny_document: dict[str, Any]
) -> None:
    tiny_document["datasets"]["tiny"]["checks"] = {"unreadable_file": "reject"}
    strict = make_home(document=tiny_document, folder=inbox.home.path)
    with pytest.raises(DataError, match=r"broken\.csv"):
        ingest(strict.dataset("tiny"))
    assert not strict.dataset("tiny").observations.exists


def test_a_series_that_is_missing_from_the_source_is_reported(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    ingest(installation.dataset("tiny"))
    make_home(tiny_rows(100, series=("east",)))
    receipt = ingest(installation.dataset("tiny"))
    assert [(finding.code, finding.first) for finding in receipt.findings] == [("ingest.series_missing", ("west",))]


def test_a_dry_run_writes_nothing_at_all(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    receipt = validate(installation.dataset("tiny"))
    assert (receipt.rows, receipt.data_version) == (200, None)
    assert not installation.dataset("tiny").observations.exists
    assert installation.ledger.receipts.latest("tiny") == []


def test_the_ledger_keeps_every_receipt(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    installation = make_home(tiny_rows(100))
    receipts: list[Receipt] = [ingest(installation.dataset("tiny")), ingest(installation.dataset("tiny"))]
    assert installation.ledger.receipts.latest("tiny") == receipts[::-1]


@pytest.fixture
def table(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> Installation:
    """A home whose source is a table with a cursor."""
    source = {"kind": "sql", "url": "sqlite:///plant.db", "table": "readings", "cursor": "changed"}
    tiny_document["datasets"]["tiny"]["source"] = source
    installation = make_home(document=tiny_document)
    write_table(installation, tiny_rows(100).with_columns(changed=pl.int_range(pl.len())))
    return installation


def write_table(installation: Installation, rows: pl.DataFrame) -> None:
    with closing(sqlite3.connect(installation.home.path / "plant.db")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS readings (time, site, load, price, wind, changed)")
        values = rows.with_columns(pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S")).rows()
        connection.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?)", values)


def test_of_a_table_with_a_cursor_only_new_rows_are_read(
    table: Installation, tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    assert ingest(table.dataset("tiny")).new == 200
    quiet = ingest(table.dataset("tiny"))
    assert (quiet.rows, quiet.new, quiet.data_version) == (1, 0, 0)
    later = tiny_rows(102).filter(pl.int_range(pl.len()).over("site") >= 100)
    correction = tiny_rows(100).head(1).with_columns(load=pl.lit(7.0))
    write_table(table, pl.concat([later, correction]).with_columns(changed=pl.int_range(pl.len()) + 500))
    receipt = ingest(table.dataset("tiny"))
    assert (receipt.rows, receipt.new, receipt.changed) == (6, 4, 1)
    assert "ingest.series_missing" not in codes(receipt.findings)


def test_a_table_whose_new_rows_are_all_wrong_goes_on_after_them(
    table: Installation, tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    ingest(table.dataset("tiny"))
    with closing(sqlite3.connect(table.home.path / "plant.db")) as connection, connection:
        connection.execute("DELETE FROM readings")
    wrong = tiny_rows(1).with_columns(load=pl.lit("broken"), changed=pl.lit(900))
    write_table(table, wrong)
    receipt = ingest(table.dataset("tiny"))
    assert (receipt.rows, receipt.quarantined, receipt.cursor) == (0, 2, "900")


def test_a_data_set_that_is_pushed_to_has_nothing_to_read(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    tiny_document["datasets"]["tiny"]["source"] = {"kind": "push"}
    installation = make_home(document=tiny_document)
    with pytest.raises(DataError) as caught:
        ingest(installation.dataset("tiny"))
    assert caught.value.code == "ingest.empty"
    config = installation.config.datasets["tiny"]
    pushed = ingest(installation.dataset("tiny"), [from_frame(tiny_rows(50), config, "tiny")])
    refreshed = ingest(installation.dataset("tiny"))
    assert (pushed.new, refreshed.rows, refreshed.data_version) == (100, 0, pushed.data_version)


def test_a_source_without_new_rows_is_no_error(table: Installation) -> None:
    ingest(table.dataset("tiny"))
    with closing(sqlite3.connect(table.home.path / "plant.db")) as connection, connection:
        connection.execute("DELETE FROM readings")
    receipt = ingest(table.dataset("tiny"))
    assert (receipt.rows, receipt.new, receipt.data_version) == (0, 0, 0)


def test_one_file_per_channel_makes_whole_rows(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    tiny_document["datasets"]["tiny"]["source"] = {"kind": "csv", "path": "inbox/", "partial": True}
    installation = make_home(document=tiny_document)
    (installation.home.path / "inbox").mkdir()
    rows = tiny_rows(48)
    for channel in ("load", "price", "wind"):
        rows.select("time", "site", channel).write_csv(installation.home.path / "inbox" / f"{channel}.csv")
    receipt = ingest(installation.dataset("tiny"))
    assert (receipt.new, receipt.findings) == (96, ())
    stored = installation.dataset("tiny").observations.read()
    assert stored.select("load", "price", "wind").equals(rows.sort("site", "time").select("load", "price", "wind"))
    assert ingest(installation.dataset("tiny")).unchanged == 96


def test_numbers_may_be_written_with_a_comma(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any]
) -> None:
    source = {"kind": "csv", "path": "rows.csv", "separator": ";", "decimal_comma": True}
    tiny_document["datasets"]["tiny"]["source"] = source
    installation = make_home(document=tiny_document)
    file = installation.home.path / "rows.csv"
    lines = ["time;site;load;price;wind", "2024-01-01 00:00;east;100,5;-1,25;3", "2024-01-01 01:00;east;1e2;2;x"]
    file.write_text("\n".join(lines[:2]), encoding="utf-8")
    ingest(installation.dataset("tiny"))
    file.write_text("\n".join(lines), encoding="utf-8")  # a cell that is no number makes it text
    receipt = ingest(installation.dataset("tiny"))
    assert (receipt.unchanged, receipt.quarantined) == (1, 1)
    assert installation.dataset("tiny").observations.read().select("load", "price", "wind").rows() == [
        (100.5, -1.25, 3.0)
    ]


def test_a_version_that_a_receipt_promises_and_the_table_lacks_stops_the_next_ingestion(
    make_home: Callable[..., Installation], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    ingest(make_home(tiny_rows(50)).dataset("tiny"))
    installation = make_home(tiny_rows(60))
    assert ingest(installation.dataset("tiny")).data_version == 1
    table = installation.home.lake / "tiny" / "observations"
    max((table / "_digests").glob("*.sha256")).unlink()
    max((table / "_delta_log").glob("*.json")).write_text("torn", encoding="utf-8")
    with pytest.raises(StorageError, match="a receipt confirms version 1") as caught:
        ingest(make_home(tiny_rows(61)).dataset("tiny"))
    assert caught.value.code == "lake.corrupt"


def test_a_dry_run_tells_of_channels_that_the_table_does_not_have(
    make_home: Callable[..., Installation], tiny_document: dict[str, Any], tiny_rows: Callable[..., pl.DataFrame]
) -> None:
    ingest(make_home(tiny_rows(50)).dataset("tiny"))
    tiny_document["datasets"]["tiny"]["channels"]["rain"] = {"role": "past"}
    with pytest.raises(ConfigError) as caught:
        validate(make_home(tiny_rows(50).with_columns(rain=pl.lit(1.0)), tiny_document).dataset("tiny"))
    assert caught.value.code == "lake.channels_changed"
