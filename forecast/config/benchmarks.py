"""The named public benchmarks: the format of their files and their published splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class BenchmarkName(StrEnum):
    """Name of a public benchmark of long-horizon forecasting."""

    ETTH1 = "etth1"
    ETTH2 = "etth2"
    ETTM1 = "ettm1"
    ETTM2 = "ettm2"
    WEATHER = "weather"
    ELECTRICITY = "electricity"
    TRAFFIC = "traffic"
    EXCHANGE = "exchange"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Facts about a benchmark that are known before its file is read."""

    loader: str
    """Class of ``darts.datasets`` that downloads the file."""
    md5: str
    """MD5 of the file; the class checks the same one."""
    frequency: str
    """Frequency of the file that the published split refers to."""
    published: tuple[int, int, int] | None
    """Rows of the published training, validation and test part; ``None``: 70, 10 and 20 percent of all rows."""
    time: str | None = "date"
    """The column of timestamps; ``None``: the file has none, and its rows are days from :data:`FIRST_DAY` on."""
    time_format: str = "%Y-%m-%d %H:%M:%S"
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Default channels of a config without ``channels``, and their columns; empty: the config must name them."""


FIRST_DAY = (1990, 1, 1)
"""The exchange rates are numbered working days without dates; they are stored as consecutive days from this one."""

_MONTH = 30 * 24
_HOURLY = (12 * _MONTH, 4 * _MONTH, 4 * _MONTH)
_QUARTERLY = (48 * _MONTH, 16 * _MONTH, 16 * _MONTH)
_ETT = MappingProxyType({name: name for name in ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")})
_CURRENCIES = ("australia", "britain", "canada", "switzerland", "china", "japan", "new_zealand", "singapore")

BENCHMARKS: Mapping[BenchmarkName, Benchmark] = MappingProxyType(
    {
        BenchmarkName.ETTH1: Benchmark("ETTh1Dataset", "8381763947c85f4be6ac456c508460d6", "1h", _HOURLY, columns=_ETT),
        BenchmarkName.ETTH2: Benchmark("ETTh2Dataset", "51a229a3fc13579dd939364fefe9c7ab", "1h", _HOURLY, columns=_ETT),
        BenchmarkName.ETTM1: Benchmark(
            "ETTm1Dataset", "82d6bd89109c63d075d99c1077b33f38", "15m", _QUARTERLY, columns=_ETT
        ),
        BenchmarkName.ETTM2: Benchmark(
            "ETTm2Dataset", "7687e47825335860bf58bccb31be0c56", "15m", _QUARTERLY, columns=_ETT
        ),
        BenchmarkName.WEATHER: Benchmark(
            "WeatherDataset", "a2942a05638ba311bc7935bcc087a30f", "10m", None, "Date Time", "%d.%m.%Y %H:%M:%S"
        ),
        # darts downloads a file of 370 clients every 15 minutes. The published split refers to another file, of 321
        # clients every hour, which the user must supply.
        BenchmarkName.ELECTRICITY: Benchmark(
            "ElectricityDataset", "acfe6783eea43905e510f537add940fd", "1h", None, time=""
        ),
        BenchmarkName.TRAFFIC: Benchmark("TrafficDataset", "a2105f364ef70aec06c757304833f72a", "1h", None, time="Date"),
        BenchmarkName.EXCHANGE: Benchmark(
            "ExchangeRateDataset",
            "6e35621a9eb6a9dd5465cf52a22b1339",
            "1d",
            None,
            time=None,
            columns=MappingProxyType({name: str(number) for number, name in enumerate(_CURRENCIES)}),
        ),
    }
)
"""By name. Sources of the splits: Zhou et al. 2021 (ETT, months of 30 days), Wu et al. 2021 (the others)."""


def with_known_channels(config: Any) -> Any:
    """Add the default channels of a benchmark, all targets, to the raw config of a data set that names no channels."""
    source = config.get("source") if isinstance(config, Mapping) and "channels" not in config else None
    if not isinstance(source, Mapping) or source.get("kind") != "benchmark":
        return config
    columns = next((known.columns for name, known in BENCHMARKS.items() if name == source.get("name")), {})
    channels = {name: {"role": "target", "column": column} for name, column in columns.items()}
    return {**config, "channels": channels} if channels else config
