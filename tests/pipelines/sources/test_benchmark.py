from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
import pytest
from darts import datasets
from darts.datasets.dataset_loaders import DatasetLoader

from forecast.config import benchmarks
from forecast.config.benchmarks import BENCHMARKS, Benchmark, BenchmarkName, with_known_channels
from forecast.errors import ForecastError
from forecast.vocabulary import parse_duration
from pipelines.sources import Batch
from pipelines.sources import benchmark as module

Read = Callable[..., Batch]
Refuse = Callable[..., ForecastError]
VARIABLE = "FORECAST_ETTH1"
BESIDE = Path(__file__).parents[4] / "shared" / "data" / "ETTh1.csv"
ETTH1 = Path(os.environ.get(VARIABLE, BESIDE))  # read before the tests' own environment hides it
needs_etth1 = pytest.mark.skipif(not ETTH1.is_file(), reason=f"ETTh1.csv is not on this machine; name it in {VARIABLE}")


def channels(name: str) -> dict[str, Any]:
    found: dict[str, Any] = with_known_channels({"source": {"kind": "benchmark", "name": name}})["channels"]
    return found


@pytest.fixture
def known_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BenchmarkName, str], Path]:
    """Write a small file and let it be the public one of a benchmark."""

    def make(name: BenchmarkName, text: str) -> Path:
        (tmp_path / "file.csv").write_text(text)
        md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        known = MappingProxyType({**BENCHMARKS, name: replace(BENCHMARKS[name], md5=md5)})
        monkeypatch.setattr(module, "BENCHMARKS", known)
        return tmp_path / "file.csv"

    return make


@pytest.mark.parametrize("known", BENCHMARKS.values(), ids=[*BENCHMARKS])
def test_what_is_known_of_a_benchmark_is_what_darts_knows(known: Benchmark) -> None:
    metadata = getattr(datasets, known.loader)()._metadata
    assert metadata.hash == known.md5
    header = "Unnamed: 0" if known.time == "" else known.time  # pandas' word for a header that is empty
    assert (metadata.header_time, metadata.format_time) == (header, None if header is None else known.time_format)
    assert metadata.freq is None or parse_duration(metadata.freq.removesuffix("in")) == parse_duration(known.frequency)


def test_every_benchmark_is_known() -> None:
    assert set(BENCHMARKS) == set(BenchmarkName)


@needs_etth1
@pytest.mark.parametrize("by", ["path", "environment"])
def test_etth1_is_read_from_disk_with_all_its_channels(
    tmp_path: Path, read_one: Read, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    source = {"kind": "benchmark", "name": "etth1"}
    if by == "path":
        source["path"] = str(ETTH1)
    else:
        monkeypatch.setenv(VARIABLE, str(ETTH1))
    batch = read_one(source, channels=channels("etth1"))
    assert (batch.name, len(batch.rows), batch.rows.columns[3:]) == (
        ETTH1.name,
        17_420,
        ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
    )
    assert batch.rows.row(0)[:4] == (1, "tiny", datetime(2016, 7, 1), 5.827000141143799)  # noqa: DTZ001  # as it stands there
    assert batch.rows["OT"].sum() == pytest.approx(pl.read_csv(ETTH1)["OT"].sum())
    assert list(tmp_path.iterdir()) == []


@needs_etth1
def test_another_file_under_the_name_of_a_benchmark_is_refused(tmp_path: Path, refusal: Refuse) -> None:
    content = bytearray(ETTH1.read_bytes())
    content[1000] ^= 1
    (tmp_path / "ETTh1.csv").write_bytes(content)
    error = refusal({"kind": "benchmark", "name": "etth1", "path": "ETTh1.csv"}, channels=channels("etth1"))
    assert (error.code, BENCHMARKS[BenchmarkName.ETTH1].md5 in str(error)) == ("source.wrong_file", True)
    assert VARIABLE in str(error)


@pytest.mark.parametrize("by", ["source.path", VARIABLE])
def test_a_benchmark_file_that_is_not_there_is_named(refusal: Refuse, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    source = {"kind": "benchmark", "name": "etth1"}
    if by == VARIABLE:
        monkeypatch.setenv(VARIABLE, "none.csv")
    else:
        source["path"] = "none.csv"
    error = refusal(source, channels=channels("etth1"))
    assert (error.code, f"correct {by}" in str(error)) == ("source.not_found", True)


def test_weather_tells_days_before_months(read_one: Read, known_file: Callable[..., Path]) -> None:
    file = known_file(
        BenchmarkName.WEATHER,
        '"Date Time","T (degC)","SWDR (W/m²)"\n01.02.2020 00:10:00,1.5,0\n01.02.2020 00:20:00,2,0\n',
    )
    wanted = {
        "temperature": {"role": "target", "column": "T (degC)"},
        "radiation": {"role": "past", "column": "SWDR (W/m²)"},
    }
    batch = read_one({"kind": "benchmark", "name": "weather", "path": file.name}, channels=wanted)
    times = [datetime(2020, 2, 1, 0, minute) for minute in (10, 20)]  # noqa: DTZ001  # wall times, as in the file
    assert batch.rows["time"].to_list() == times
    assert batch.rows["temperature"].to_list() == [1.5, 2.0]


def test_exchange_rates_have_no_dates_and_become_consecutive_days(
    read_one: Read, known_file: Callable[..., Path]
) -> None:
    file = known_file(BenchmarkName.EXCHANGE, "0,1,2,3,4,5,6,7\n" + "1,2,3,4,5,6,7,8\n" * 3)
    batch = read_one({"kind": "benchmark", "name": "exchange", "path": file.name}, channels=channels("exchange"))
    assert batch.rows["time"].to_list() == [date(*benchmarks.FIRST_DAY[:2], day) for day in (1, 2, 3)]
    assert batch.rows.row(0)[3:] == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert batch.rows.columns[3:5] == ["australia", "britain"]


def test_electricity_may_be_the_file_that_darts_makes_or_the_hourly_one_that_is_supplied(
    tmp_path: Path, read_one: Read, refusal: Refuse, known_file: Callable[..., Path]
) -> None:
    source = {"kind": "benchmark", "name": "electricity", "path": "file.csv"}
    known_file(BenchmarkName.ELECTRICITY, '"","MT_001","MT_002"\n2011-01-01 00:15:00,1,2\n')
    one = read_one(source, channels={"first": {"role": "target", "column": "MT_001"}})
    assert one.rows.rows() == [(1, "tiny", datetime(2011, 1, 1, 0, 15), 1.0)]  # noqa: DTZ001  # a wall time
    clients = [str(number) for number in range(320)] + ["OT"]
    hourly = pl.DataFrame({"date": ["2016-07-01 02:00:00"], **dict.fromkeys(clients, 14.0)})
    hourly.write_csv(tmp_path / "file.csv")
    supplied = read_one(source, channels={"last": {"role": "target", "column": "OT"}})
    assert supplied.rows.rows() == [(1, "tiny", "2016-07-01 02:00:00", 14.0)]
    hourly.drop("7").write_csv(tmp_path / "file.csv")
    error = refusal(source, channels={"last": {"role": "target", "column": "OT"}})
    assert (error.code, "has 320 columns of values" in str(error)) == ("source.wrong_file", True)


@needs_etth1
def test_a_file_that_darts_fetched_before_is_used_without_network(
    tmp_path: Path, read_one: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path)
    (tmp_path / "ETTh1.csv").write_bytes(ETTH1.read_bytes())
    assert len(read_one({"kind": "benchmark", "name": "etth1"}, channels=channels("etth1")).rows) == 17_420


def test_a_benchmark_that_cannot_be_fetched_says_where_to_put_the_file(
    tmp_path: Path, refusal: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing listens there: no network, without waiting for it
    error = refusal({"kind": "benchmark", "name": "etth1"}, channels=channels("etth1"))
    assert (error.code, f"put the file on disk and set {VARIABLE}" in str(error)) == ("source.not_fetched", True)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"source": {"kind": "benchmark", "name": "ettm2"}}, ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]),
        ({"source": {"kind": "benchmark", "name": "ettm2"}, "channels": {"OT": {}}}, ["OT"]),
        ({"source": {"kind": "benchmark", "name": "weather"}}, None),
        ({"source": {"kind": "benchmark", "name": "etth3"}}, None),
        ({"source": {"kind": "csv", "path": "x"}}, None),
        ({"source": "x"}, None),
        ({}, None),
    ],
)
def test_a_job_without_channels_gets_those_of_its_benchmark(config: dict[str, Any], names: list[str] | None) -> None:
    before = dict(config)
    completed = with_known_channels(config)
    assert list(completed["channels"]) == names if names else completed is config
    assert config == before


def test_what_is_no_job_stays_what_it_is() -> None:
    assert with_known_channels("x") == "x"
