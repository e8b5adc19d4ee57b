"""Rows of a named public benchmark."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import polars as pl

from forecast.config.benchmarks import BENCHMARKS, FIRST_DAY, Benchmark, BenchmarkName
from forecast.config.dataset import DatasetConfig
from forecast.config.sources import BenchmarkSource
from forecast.errors import DataError, NotFoundError, UnavailableError
from pipelines.sources.batch import Batch, Content, Unreadable
from pipelines.sources.csv import read_csv
from pipelines.sources.files import read_file

_CLIENTS = 321
_TIME = "time"


def read_benchmark(dataset: str, config: DatasetConfig, base: Path, cursor: str | None) -> Iterator[Batch | Unreadable]:  # noqa: ARG001  # files are always read whole
    """Read a benchmark's file: from the config's path, the environment's (``FORECAST_ETTH1``), or fetched by darts.

    Yields one series with the name of the data set; the times are those of the file, whatever ``time`` is configured.
    Raises ``source.not_found``, ``source.not_fetched``, and ``source.wrong_file`` if the hash differs, except for the
    hourly file of 321 clients that published results on electricity use.
    """
    source = config.source
    if not isinstance(source, BenchmarkSource):
        raise TypeError(source)
    known = BENCHMARKS[source.name]
    path = _found(source, known, base)
    with path.open("rb") as opened:
        is_known = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == known.md5
    is_supplied = bool(source.path) and source.name is BenchmarkName.ELECTRICITY
    if not is_known and not is_supplied:
        raise DataError(
            "source.wrong_file",
            f'"{path}" is not the public file of {source.name}: its MD5 is not {known.md5}',
            f"set the path of that file in source.path or {_variable(source.name)}",
        )
    one_series = config.model_copy(update={"time": _TIME, "series": ""})
    yield read_file(path, partial(_read, known=known if is_known else None), dataset, one_series, path.name)


def _read(content: Content, config: DatasetConfig, *, known: Benchmark | None) -> pl.DataFrame:
    column = "date" if known is None else known.time
    frame = read_csv(content, config.model_copy(update={"time": column or ""}))
    if column is None:
        first = date(*FIRST_DAY)
        times = pl.date_range(first, first + timedelta(days=len(frame) - 1), eager=True)
    elif known is None:
        times = frame[column]
        if frame.width != _CLIENTS + 1:
            raise DataError(
                "source.wrong_file",
                f'"{content.name}" has {frame.width - 1} columns of values',
                f"supply the hourly file of electricity with {_CLIENTS} clients, or remove source.path",
            )
    else:
        times = frame[column].str.to_datetime(known.time_format, time_unit="us")
    return frame.with_columns(times.alias(_TIME))


def _variable(name: BenchmarkName) -> str:
    return f"FORECAST_{name.upper()}"


def _found(source: BenchmarkSource, known: Benchmark, base: Path) -> Path:
    variable = _variable(source.name)
    named = source.path or os.environ.get(variable)
    if not named:
        return _fetched(source.name, known)
    path = base / Path(named).expanduser()
    if not path.is_file():
        place = "source.path" if source.path else variable
        raise NotFoundError("source.not_found", f'"{path}" of {place} is not a file', f"correct {place}")
    return path


def _fetched(name: BenchmarkName, known: Benchmark) -> Path:
    # Imported here, so that only a fetch loads darts.
    darts = importlib.import_module("darts.datasets")
    failure: type[BaseException] = importlib.import_module("darts.datasets.dataset_loaders").DatasetLoadingException
    loader = getattr(darts, known.loader)()
    try:
        loader.load()
    except failure as error:
        raise UnavailableError(
            "source.not_fetched",
            f"cannot fetch {name} ({error})",
            f"put the file on disk and set {_variable(name)} to its path",
        ) from error
    return Path(loader._get_path_dataset())  # noqa: SLF001  # darts has no public name for the path
