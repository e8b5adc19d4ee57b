from __future__ import annotations

import bz2
import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import ForecastError
from pipelines.sources import SOURCES, Batch, Unreadable
from pipelines.sources.arrow import read_arrow
from pipelines.sources.batch import Content
from pipelines.sources.files import Format
from pipelines.sources.jsonl import read_jsonl
from pipelines.sources.parquet import read_parquet

ReadAll = Callable[..., list[Batch | Unreadable]]
Read = Callable[..., Batch]
Refuse = Callable[..., ForecastError]
FRAME = pl.DataFrame(
    {
        "time": ["2024-01-01", "2024-01-02"],
        "site": ["east", "west"],
        "load": [1.0, None],
        "price": [2, 3],
        "wind": [4.5, 5.5],
    }
)
WRITERS: dict[str, tuple[str, Callable[[pl.DataFrame, Path], object]]] = {
    "csv": ("csv", pl.DataFrame.write_csv),
    "parquet": ("parquet", pl.DataFrame.write_parquet),
    "jsonl": ("jsonl", pl.DataFrame.write_ndjson),
    "arrow file": ("arrow", pl.DataFrame.write_ipc),
    "arrow stream": ("arrow", pl.DataFrame.write_ipc_stream),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "zst": lambda plain: pa.compress(plain, codec="zstd", asbytes=True),
}


def series_of(found: list[Batch | Unreadable]) -> list[str]:
    return [name for batch in found if isinstance(batch, Batch) for name in batch.rows["series"]]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_rows_packed_or_not(
    tmp_path: Path, read_one: Read, form: str, packing: str
) -> None:
    kind, write = WRITERS[form]
    write(FRAME, tmp_path / "plain")
    file = tmp_path / f"rows.{kind}{'' if packing == 'plain' else '.' + packing}"
    file.write_bytes(PACKERS[packing]((tmp_path / "plain").read_bytes()))
    batch = read_one({"kind": kind, "path": file.name})
    assert batch.rows.rows() == [
        (1, "east", "2024-01-01", 1.0, 2, 4.5),
        (2, "west", "2024-01-02", None, 3, 5.5),
    ]
    assert (batch.name, batch.cursor, batch.unknown_channels) == (file.name, None, ())
    assert batch.digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_types_stay_as_they_came(tmp_path: Path, read_one: Read) -> None:
    FRAME.with_columns(
        time=pl.Series(["2024-01-01", "2024-01-02"]).str.to_datetime(time_zone="Asia/Tokyo"),
        load=pl.Series([1, 2], dtype=pl.Int16),
        price=pl.Series(["1.25", "x"]),
    ).write_parquet(tmp_path / "rows.parquet")
    schema = read_one({"kind": "parquet", "path": "rows.parquet"}).rows.schema
    assert schema["time"] == pl.Datetime("us", "Asia/Tokyo")
    assert [schema["load"], schema["price"]] == [pl.Int16(), pl.String()]


def test_a_folder_gives_its_files_in_order_and_leaves_out_hidden_and_unfinished_ones(
    tmp_path: Path, read_all: ReadAll
) -> None:
    for name in ("b.csv", "a.CSV", "c.csv.gz", ".hidden.csv", "d.csv.tmp", "e.part", "sub/f.csv"):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = FRAME[:1].with_columns(site=pl.lit(name)).write_csv().encode()
        file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = read_all({"kind": "csv", "path": "in/"})
    assert [batch.name for batch in found] == ["in/a.CSV", "in/b.csv", "in/c.csv.gz"]
    assert series_of(found) == ["a.CSV", "b.csv", "c.csv.gz"]
    assert series_of(read_all({"kind": "csv", "path": "in/*.csv"})) == ["b.csv"]
    assert series_of(read_all({"kind": "csv", "path": "in/**/[bf].csv"})) == ["b.csv", "sub/f.csv"]
    assert series_of(read_all({"kind": "csv", "path": f"{tmp_path}/in/?.csv"})) == ["b.csv"]


def test_in_a_folder_whose_name_looks_like_a_pattern_files_are_found(
    tmp_path: Path, config_with: Callable[..., DatasetConfig]
) -> None:
    home = tmp_path / "home [1]"
    (home / "in").mkdir(parents=True)
    FRAME.write_csv(home / "in" / "rows.csv")
    config = config_with(source={"kind": "csv", "path": "in/*.csv"})
    assert series_of(list(SOURCES["csv"]("tiny", config, home, None))) == ["east", "west"]


def test_one_file_of_several_that_cannot_be_read_does_not_keep_the_others_out(
    tmp_path: Path, read_all: ReadAll
) -> None:
    FRAME.write_csv(tmp_path / "a.csv")
    FRAME.rename({"load": "other"}).write_csv(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"\0")
    (tmp_path / "d.csv").write_bytes(gzip.compress(b"x" * 10_000)[:-9])
    (tmp_path / "e.csv").symlink_to(tmp_path / "nowhere")
    FRAME.write_csv(tmp_path / "f.csv")
    found = read_all({"kind": "csv", "path": "*.csv"})
    assert [(batch.name, batch.error.code) for batch in found if isinstance(batch, Unreadable)] == [
        ("b.csv", "ingest.missing_column"),
        ("c.csv", "source.malformed"),
        ("d.csv", "source.malformed"),
    ]
    assert series_of(found) == ["east", "west"] * 2


@pytest.mark.parametrize(
    ("path", "code", "fact"),
    [
        ("none.csv", "source.not_found", "does not exist"),
        ("~nobody-of-this-name/none.csv", "source.not_found", "does not exist"),
        ("folder", "source.is_a_folder", 'write "folder/" to read every file in it'),
        ("folder/", "source.no_files", 'no file matches "folder/*"'),
        ("nowhere/", "source.no_files", 'no file matches "nowhere/*"'),
        ("*.tsv", "source.no_files", 'no file matches "*.tsv"'),
        ("sample:nyc-airport", "source.unknown_sample", 'did you mean "nyc-airports"?'),
        ("ftp://example.org/rows.csv", "source.unknown_scheme", 'the scheme "ftp://"'),
    ],
)
def test_a_path_at_which_nothing_lies_is_named(
    tmp_path: Path, refusal: Refuse, path: str, code: str, fact: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "unfinished.csv.part").touch()
    error = refusal({"kind": "csv", "path": path})
    assert (error.code, fact in str(error)) == (code, True), str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, refusal: Refuse) -> None:
    FRAME.write_csv(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").chmod(0)
    assert refusal({"kind": "csv", "path": "rows.csv"}).code == "source.unreadable"


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, refusal: Refuse) -> None:
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    error = refusal({"kind": "csv", "path": "bomb.csv.gz", "max_bytes": 10_000_000})
    assert (error.code, "10000000 bytes" in str(error)) == ("source.too_large", True)


@pytest.mark.parametrize("cut", [5, 20, -1])
@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_files_that_are_cut_off_are_named(tmp_path: Path, refusal: Refuse, packing: str, cut: int) -> None:
    whole = PACKERS[packing](FRAME.write_csv().encode())
    (tmp_path / "rows.csv").write_bytes(whole[:cut])
    error = refusal({"kind": "csv", "path": "rows.csv"})
    assert (error.code, '"rows.csv" is truncated or damaged' in str(error)) == ("source.malformed", True)


def test_packing_that_is_not_known_is_not_text(tmp_path: Path, refusal: Refuse) -> None:
    (tmp_path / "rows.csv.bz2").write_bytes(bz2.compress(FRAME.write_csv().encode()))
    assert refusal({"kind": "csv", "path": "rows.csv.bz2"}).code in {"source.malformed", "source.not_utf8"}


@pytest.mark.parametrize(
    ("read", "form"),
    [(read_parquet, "parquet"), (read_arrow, "arrow file"), (read_arrow, "arrow stream"), (read_jsonl, "jsonl")],
)
def test_however_a_file_is_damaged_it_is_read_or_refused_in_words(
    tmp_path: Path, tiny_config: DatasetConfig, read: Format, form: str
) -> None:
    WRITERS[form][1](FRAME, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), 5)]
    flipped = [
        whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :] for at in range(0, len(whole), 5) for bits in (1, 0xFF)
    ]
    codes = Counter(code_of(read, damaged, tiny_config) for damaged in cut + flipped)
    assert set(codes) <= {"", "source.malformed", "source.empty"}
    assert codes["source.malformed"] > len(flipped) / 4


def code_of(read: Format, content: bytes, config: DatasetConfig) -> str:
    try:
        read(Content("rows", content), config)
    except ForecastError as error:
        return error.code
    return ""


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"time": 1}\n\n{"time":\n', 'line 3 of "rows.jsonl" is not a JSON object'),
        ('{"time": 1}\n[1, 2]\n', "line 2"),
        ("null\n", "line 1"),
        ("[" * 100_000, "line 1"),
        ('{"time": ' + "9" * 5000 + "}", "line 1"),
        ("", "is empty"),
        ('{"site": 1}\n', 'has no column "time"'),
    ],
)
def test_a_malformed_json_line_is_named_by_its_number(tmp_path: Path, refusal: Refuse, text: str, fact: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    assert fact in str(refusal({"kind": "jsonl", "path": "rows.jsonl"}))


def test_json_lines_may_have_their_fields_in_any_order_lack_some_and_mix_types(tmp_path: Path, read_one: Read) -> None:
    lines = [
        '{"wind": 1, "time": "t1", "site": "a", "load": 1, "price": 1, "more": {"x": [1]}}',
        '{"time": "t2", "site": 7, "load": 2.5, "price": "high"}',
        '{"time": "t3", "site": null, "load": NaN, "price": null, "wind": 1e400}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert read_one({"kind": "jsonl", "path": "rows.jsonl"}).rows.fill_nan(-1).rows() == [
        (1, "a", "t1", 1.0, "1", 1.0),
        (2, "7", "t2", 2.5, "high", None),
        (3, None, "t3", -1.0, None, float("inf")),
    ]


def test_doubled_columns_are_refused_in_every_format(tmp_path: Path, refusal: Refuse) -> None:
    doubled = pa.table(
        [["t"], ["a"], [1.0], [2.0], [3.0], [4.0]], names=["time", "site", "load", "price", "wind", "wind"]
    )
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as out, pa.ipc.new_stream(out, doubled.schema) as stream:
        stream.write_table(doubled)
    assert refusal({"kind": "arrow", "path": "rows.arrow"}).code == "source.malformed"
    FRAME.with_columns(pl.lit(1).alias(" wind ")).write_parquet(tmp_path / "rows.parquet")
    assert refusal({"kind": "parquet", "path": "rows.parquet"}).code == "source.doubled_column"
