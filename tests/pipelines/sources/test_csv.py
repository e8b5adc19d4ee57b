from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError, ForecastError
from pipelines.sources import Batch
from pipelines.sources.batch import Content
from pipelines.sources.csv import read_csv

Read = Callable[..., Batch]
Refuse = Callable[..., ForecastError]
HEADER = "time,site,load,price,wind\n"
SOURCE = {"kind": "csv", "path": "rows.csv"}


@pytest.fixture
def rows(tmp_path: Path, read_one: Read) -> Callable[..., pl.DataFrame]:
    """Write a file and read it."""

    def run(content: str | bytes, name: str = "rows.csv", **fields: Any) -> pl.DataFrame:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        source = {"kind": "csv", "path": name} | fields.pop("source", {})
        return read_one(source, **fields).rows

    return run


@pytest.fixture
def error(tmp_path: Path, refusal: Refuse) -> Callable[..., ForecastError]:
    def run(content: str | bytes) -> ForecastError:
        (tmp_path / "rows.csv").write_bytes(content.encode() if isinstance(content, str) else content)
        return refusal(SOURCE)

    return run


def test_rows_come_in_one_shape_with_numbers_as_numbers_and_the_rest_as_text(rows: Callable[..., pl.DataFrame]) -> None:
    found = rows(HEADER + "2024-01-01 00:00,east,1,2.5,\n2024-01-01 01:00,west,-3e2,NA,inf\n")
    assert found.schema == {
        "row": pl.Int64,
        "series": pl.String,
        "time": pl.String,
        "load": pl.Float64,
        "price": pl.Float64,
        "wind": pl.Float64,
    }
    assert found.rows() == [
        (1, "east", "2024-01-01 00:00", 1.0, 2.5, None),
        (2, "west", "2024-01-01 01:00", -300.0, None, float("inf")),
    ]


def test_a_column_with_a_cell_that_is_no_number_stays_text_beside_others_that_are_numbers(
    rows: Callable[..., pl.DataFrame],
) -> None:
    found = rows(HEADER + "t1,east,1, 2 ,5\nt2,east,1,12 MW,NaN\n")
    assert found["load"].to_list() == [1.0, 1.0]
    assert found["price"].to_list() == ["2", "12 MW"]
    assert found["wind"].to_list() == [5.0, None]


CELLS = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.floats(allow_nan=False).map("{:.3g}".format),
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from(["", "NA", "NaN", "nan", "null", "None", "N/A", "inf", "-inf", "Infinity", "1.", ".5", "+2", "-0"]),
)


@given(cells=st.lists(CELLS, min_size=1), spaces=st.sampled_from(["", " ", "  "]))
@settings(max_examples=100, deadline=None)
def test_both_ways_of_reading_numbers_give_the_same_values(
    plain_job: DatasetConfig, cells: list[str], spaces: str
) -> None:
    lines = [f"t,east,{spaces}{cell}{spaces},0,0\n" for cell in cells]
    fast = read_csv(Content("rows.csv", (HEADER + "".join(lines)).encode()), plain_job)
    slow = read_csv(Content("rows.csv", (HEADER + "".join(lines) + "t,east,,no number,0\n").encode()), plain_job)
    assert slow["price"].dtype == pl.String
    assert_series_equal(fast["load"].cast(pl.Float64), slow["load"][:-1], check_exact=True)


@given(damaged=st.binary(max_size=200) | st.text(alphabet='a,"\n\r\t 1.é\0', max_size=60).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_whatever_is_in_a_file_it_is_read_or_refused_in_words(plain_job: DatasetConfig, damaged: bytes) -> None:
    for content in (damaged, HEADER.encode() + damaged):
        with contextlib.suppress(DataError):  # anything else fails the test
            assert read_csv(Content("rows.csv", content), plain_job).height > 0


@pytest.mark.parametrize(
    ("name", "separator", "given"),
    [
        ("rows.csv", ",", ""),
        ("rows.tsv", "\t", ""),
        ("rows.TSV", "\t", ""),
        ("rows.csv", ";", ";"),
        ("rows.tsv", "|", "|"),
    ],
)
def test_the_separator_is_configured_or_follows_from_the_name(
    rows: Callable[..., pl.DataFrame], name: str, separator: str, given: str
) -> None:
    text = (HEADER + "t,east,1,2,3\n").replace(",", separator)
    assert rows(text, name, source={"separator": given}).row(0) == (1, "east", "t", 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "content",
    [
        (HEADER + "t,east,1,2,3\n").encode("utf-8-sig"),
        (HEADER + "t,east,1,2,3\n").replace("\n", "\r\n").encode(),
        HEADER.encode() + b"t,east,1,2,3",
        HEADER.encode() + b'"t","east","1",2,3\n',
        b' time , site,load ,"price",wind\nt,east,1,2,3\n',
        b'"time","site","load","price","wind"\nt,east,1,2,3\n',
    ],
    ids=[
        "byte order mark",
        "Windows line ends",
        "no last line end",
        "quotes",
        "spaces around headers",
        "quoted headers",
    ],
)
def test_harmless_habits_of_writers_change_nothing(rows: Callable[..., pl.DataFrame], content: bytes) -> None:
    assert rows(content).row(0) == (1, "east", "t", 1.0, 2.0, 3.0)


def test_empty_lines_are_no_rows_but_are_counted_as_a_person_would(rows: Callable[..., pl.DataFrame]) -> None:
    found = rows(HEADER + "t1,east,1,2,3\n\n,,,,\nt2,east,1,2,3\n\n")
    assert found.select("row", "time").rows() == [(1, "t1"), (4, "t2")]


def test_a_series_may_be_called_NA(rows: Callable[..., pl.DataFrame]) -> None:  # noqa: N802
    assert rows(HEADER + "t,NA,1,2,NA\n").row(0) == (1, "NA", "t", 1.0, 2.0, None)


def test_cells_may_hold_separators_and_line_ends_in_quotes(rows: Callable[..., pl.DataFrame]) -> None:
    found = rows("note," + HEADER + '"a, b","t1",east,1,2,3\n"c\nd","t2","we,st",1,2,3\n')
    assert found.select("row", "series", "time").rows() == [(1, "east", "t1"), (2, "we,st", "t2")]


def test_columns_that_the_job_does_not_use_are_left_out(rows: Callable[..., pl.DataFrame]) -> None:
    assert rows("a," + HEADER.strip() + ",b\nx,t,east,1,2,3,y\n").columns == [
        *("row", "series", "time", "load", "price", "wind"),
    ]


@pytest.mark.parametrize(
    ("content", "code", "fact"),
    [
        (b"", "source.empty", "is empty"),
        (b" \n\n", "source.empty", "is empty"),
        (HEADER.encode(), "source.no_rows", "has a header but no rows"),
        ((HEADER + "t,east,1,2,3\n").encode("utf-16"), "source.not_utf8", "is not UTF-8 (UTF-16)"),
        ((HEADER + "t,east,1,2,3\nt,Köln,1,2,3\n").encode("latin-1"), "source.not_utf8", "line 3"),
        ("time,site,load,price,wind,Größe\n".encode("latin-1"), "source.not_utf8", "line 1"),
        (HEADER.encode() + b"\x00\x01\x02", "source.malformed", "zero bytes"),
        (b"PK\x03\x04" + bytes(range(256)), "source.malformed", "zero bytes"),
        ((HEADER + "t,east,1,2,3\nt,east,1,2\n").encode(), "source.malformed", "line 3 has 4 cells, the header 5"),
        ((HEADER + "t,east,1,2,3,\nt,east,1,2,3\n").encode(), "source.malformed", "line 2 has 6 cells, the header 5"),
        ((HEADER + "t,east,1,2\nt,east,1,2,3,4\n").encode(), "source.malformed", "line 2 has 4 cells"),
        (("a," * 4 + HEADER + "t,east,1,5,2,3\n").encode(), "source.doubled_column", 'called "a"'),
        (("a," + HEADER + "x,t,east,1,2\nx,t,east,1,2,3,4\n").encode(), "source.malformed", "line 2 has 5 cells"),
        (("load ," + HEADER + "1,t,east,1,2,3\n").encode(), "source.doubled_column", 'several columns called "load"'),
        ((HEADER + 't,east,1,2,"3\nt,east,1,2,3\n').encode(), "source.malformed", "line 2: a quote is not closed"),
        ((HEADER + 't,"ea"st,1,2,3,4\n').encode(), "source.malformed", "line 2: a quote is not closed or misplaced"),
        (b'"time,site,load,price,wind\nt,east,1,2,3\n', "source.malformed", "line 1: a quote is not closed"),
        (b"time;site;load;price;wind\nt;east;1;2;3\n", "ingest.missing_column", 'has no column "time"'),
        (
            b"time,site,lod,price,wind\nt,east,1,2,3\n",
            "ingest.missing_column",
            'has no column "load"; did you mean "lod"?',
        ),
        (b"2024-01-01,east,1,2,3\n2024-01-02,east,1,2,3\n", "ingest.missing_column", 'has no column "time"'),
    ],
)
def test_a_malformed_csv_is_rejected_with_its_line(
    error: Callable[..., ForecastError], content: bytes, code: str, fact: str
) -> None:
    found = error(content)
    assert (found.code, fact in str(found)) == (code, True), str(found)
    assert '"rows.csv"' in str(found)
