"""Which rows a model is fitted on, stopped by, calibrated on and compared on, as the job file tells it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import PlainValidator, model_validator

from forecast.config.benchmarks import BENCHMARKS, Benchmark
from forecast.config.sources import BenchmarkSource
from forecast.errors import ConfigError
from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration

if TYPE_CHECKING:
    from forecast.config.dataset import DatasetConfig


def _moment(given: Any) -> datetime:
    if isinstance(given, datetime):
        return given
    if isinstance(given, date):
        return datetime.combine(given, time())
    raise ConfigError("splits.malformed", f"{given!r} is no date", "write a date or a time as TOML does: 2024-05-01")


def _part(given: Any) -> timedelta | float | datetime:
    if isinstance(given, str):
        return parse_duration(given)
    if isinstance(given, date):
        return _moment(given)
    if isinstance(given, float) and 0 < given < 1:
        return given
    raise ConfigError(
        "splits.malformed",
        f"{given!r} is no part of the history",
        'write a duration such as "21d", a share of all rows such as 0.1, or the date at which the part begins',
    )


Moment = Annotated[datetime, PlainValidator(_moment)]
Part = Annotated[timedelta | float | datetime, PlainValidator(_part)]


class Splits(StrictModel):
    """The newest history, kept from the fit in time order: early stopping, calibration, holdout.

    Each part is a duration, a share of all rows, or the time at which it begins (naive: a wall time of the job's zone).
    It ends where the next one begins.
    """

    validation: Part = timedelta(days=21)
    calibration: Part = timedelta(days=28)
    holdout: Part = timedelta(days=21)
    until: Moment | None = None
    """Rows from this time on are neither trained nor scored on."""
    published: bool = False
    """Benchmarks: training and test part as published; early stopping gets the first half of the published validation
    part, calibration the second."""

    @model_validator(mode="after")
    def _told_once(self) -> Self:
        if self.published and len(self.model_fields_set) > 1:
            message = "published = true says where every part lies; leave the other fields out"
            raise ValueError(message)
        if sum(part for part in self.parts.values() if isinstance(part, float)) >= 1:
            message = "validation, calibration and holdout take all rows; leave some to fit on"
            raise ValueError(message)
        return self

    @property
    def parts(self) -> dict[str, timedelta | float | datetime]:
        """The parts by name, in time order."""
        return {"validation": self.validation, "calibration": self.calibration, "holdout": self.holdout}

    def check(self, config: DatasetConfig) -> None:
        """Refuse what cannot fit whatever the rows are: a part shorter than the horizon, or none that was published."""
        if self.published:
            _check_published(config)
            return
        end = None if self.until is None else instant(self.until, config.tz)
        for name, part in reversed(self.parts.items()):
            begin = None
            if isinstance(part, timedelta):
                length: timedelta | None = part
                begin = None if end is None else end - part
            elif isinstance(part, datetime):
                begin = instant(part, config.tz)
                length = None if end is None else end - begin
            else:
                length = None
            if length is not None and length < config.step * config.horizon:
                message = (
                    f"splits.{name} ({max(length, timedelta(0))}) is shorter than the longest horizon "
                    f"({config.horizon} steps of {config.frequency}); no window would fit"
                )
                raise ValueError(message)
            end = begin


def instant(moment: datetime, zone: tzinfo) -> datetime:
    """Return a time of the job file in UTC; a naive one is a wall time of the zone."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def published_rows(config: DatasetConfig, rows: int) -> tuple[int, int, int]:
    """Return the rows of the published training, validation and test part of a benchmark of so many rows."""
    fixed = _benchmark(config).published
    if fixed is not None:
        return fixed
    train, test = int(rows * 0.7), int(rows * 0.2)
    return train, rows - train - test, test


def _benchmark(config: DatasetConfig) -> Benchmark:
    if not isinstance(config.source, BenchmarkSource):
        raise ConfigError(
            "splits.not_published",
            f'no splits are published for a source of kind "{config.source.kind}"',
            "leave out splits.published, and say where the parts lie",
        )
    return BENCHMARKS[config.source.name]


def _check_published(config: DatasetConfig) -> None:
    benchmark = _benchmark(config)
    if parse_duration(benchmark.frequency) != config.step:
        message = f"splits.published counts steps of {benchmark.frequency}, but frequency is {config.frequency}"
        raise ValueError(message)
    _, validation, test = benchmark.published or (0, 2 * config.horizon, config.horizon)
    if min(validation // 2, test) < config.horizon:
        message = (
            f"half of the published validation part ({validation // 2} steps) is shorter than the longest horizon "
            f"({config.horizon} steps); no window would fit"
        )
        raise ValueError(message)
