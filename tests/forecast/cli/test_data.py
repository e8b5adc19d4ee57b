import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forecast.installation import Installation

MakeHome = Callable[..., Installation]
MakeRows = Callable[..., pl.DataFrame]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dirty(make_home: MakeHome, tiny_rows: MakeRows) -> Path:
    """A home whose source has a row that is quarantined and a value that is repaired."""
    rows = tiny_rows(100).with_columns(pl.col("load").cast(pl.String))
    number = pl.int_range(pl.len())
    load = pl.when(number == 3).then(pl.lit("broken")).when(number == 5).then(pl.lit("-1")).otherwise("load")
    return make_home(rows.with_columns(load.alias("load"))).home.path


def test_a_check_says_what_an_ingestion_would_do_and_writes_nothing(run: Run, dirty: Path) -> None:
    code, out, _ = run("check", "--home", dirty)
    assert code == 0
    for message in ("nothing was written", "1 rows would be quarantined", "ingest.not_a_number", "load=broken"):
        assert message in out
    assert json.loads(run("receipts", "--json", "--home", dirty)[1]) == []
    assert not Installation.open(dirty).dataset("tiny").observations.exists


def test_a_check_of_another_file_holds_it_against_the_same_rules(run: Run, dirty: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text(
        "time,site,load,price,wind\n2024-01-01 00:00,east,1,2,x\n2024-01-01 01:00,east,1,2,3\n", encoding="utf-8"
    )
    code, out, _ = run("check", file, "--json", "--home", dirty)
    receipt: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (receipt["rows"], receipt["quarantined"], receipt["sources"]) == (1, 1, ["new.csv"])


def test_a_check_that_finds_nothing_usable_ends_as_an_ingestion_would(run: Run, dirty: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("time,site,load,price,wind\nnever,east,1,2,3\n", encoding="utf-8")
    code, _, err = run("check", file, "--home", dirty)
    assert code == 4
    assert "ingest.malformed_time" in err


def test_rows_that_were_put_aside_are_shown_once_however_often_they_come(run: Run, dirty: Path) -> None:
    assert "no quarantined rows" in run("quarantine", "--home", dirty)[1]
    first = json.loads(run("ingest", "--json", "--home", dirty)[1])
    again = json.loads(run("ingest", "--json", "--home", dirty)[1])
    assert (first["quarantined"], again["quarantined"]) == (1, 0)
    rows = json.loads(run("quarantine", "--json", "--home", dirty)[1])
    assert [(row["row"], row["code"]) for row in rows] == [(4, "ingest.not_a_number")]
    assert "broken" in run("quarantine", "--home", dirty)[1]


def test_receipts_are_shown_newest_first(run: Run, dirty: Path) -> None:
    run("ingest", "--home", dirty)
    run("ingest", "--home", dirty)
    kept = json.loads(run("receipts", "--json", "--home", dirty)[1])
    assert [receipt["new"] for receipt in kept] == [0, 199]
    assert "rows.csv" in run("receipts", "--home", dirty)[1]


def test_tables_are_maintained_by_command(run: Run, dirty: Path) -> None:
    run("ingest", "--home", dirty)
    before = Installation.open(dirty).dataset("tiny").observations.read()
    code, out, _ = run("maintain", "--home", dirty, "--retention", "1d")
    assert code == 0
    assert "observations" in out
    assert Installation.open(dirty).dataset("tiny").observations.read().equals(before)
    assert run("maintain", "--home", dirty, "--retention", "long")[0] == 2


def renamed(home: Path, old: str, new: str) -> None:
    file = home / "forecast.toml"
    file.write_text(file.read_text(encoding="utf-8").replace(f'"{old}"', f'"{new}"'), encoding="utf-8")


def test_a_channel_is_renamed_once_the_job_file_names_it_so(run: Run, dirty: Path) -> None:
    run("ingest", "--home", dirty)
    before = Installation.open(dirty).dataset("tiny").observations.read()
    code, _, err = run("channel", "rename", "tiny", "wind", "wind_speed", "--home", dirty)
    assert (code, "channel.job_file_first" in err) == (2, True)
    renamed(dirty, "wind", "wind_speed")
    code, _, err = run("train", "--home", dirty)
    assert "forecast channel" in err
    assert run("channel", "rename", "tiny", "wind", "wind_speed", "--home", dirty)[0] == 0
    after = Installation.open(dirty).dataset("tiny").observations.read()
    assert after.rename({"wind_speed": "wind"}).equals(before)


def test_a_channel_is_added_and_retired_by_command(run: Run, dirty: Path) -> None:
    run("ingest", "--home", dirty)
    assert run("channel", "retire", "tiny", "wind", "--home", dirty)[0] == 2
    renamed(dirty, "wind", "rain")
    assert run("channel", "retire", "tiny", "wind", "--home", dirty)[0] == 0
    assert run("channel", "add", "tiny", "rain", "--home", dirty)[0] == 0
    rows = Installation.open(dirty).dataset("tiny").observations.read()
    assert rows.columns == ["series", "time", "load", "price", "rain"]
    assert rows["rain"].null_count() == len(rows)
    assert run("channel", "add", "tiny", "snow", "--home", dirty)[0] == 2


def test_rows_are_written_as_they_are_and_as_they_were_known(
    run: Run, make_home: MakeHome, tiny_rows: MakeRows, tmp_path: Path
) -> None:
    home = make_home(tiny_rows(50)).home.path
    run("ingest", "--home", home)
    make_home(tiny_rows(60))
    run("ingest", "--home", home)
    file = tmp_path / "rows.parquet"
    assert run("rows", file, "--home", home)[0] == 0
    assert len(pl.read_parquet(file)) == 120
    code, out, _ = run("rows", file, "--version", 0, "--since", "2024-01-02", "--json", "--home", home)
    assert (code, json.loads(out)["rows"]) == (0, 52)
    assert pl.read_parquet(file)["time"].min() == datetime(2024, 1, 2, tzinfo=UTC)
    assert "lake.before_first" in run("rows", file, "--as-of", "2020-01-01", "--home", home)[2]
    assert run("rows", tmp_path / "rows.csv", "--superseded", "--home", home)[0] == 0
    assert run("rows", tmp_path / "rows.xlsx", "--home", home)[0] == 2
