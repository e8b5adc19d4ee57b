"""Splits of the history: which rows models are fitted, stopped early, calibrated and compared on."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Any, Self

from pydantic import PlainValidator, model_validator

from forecast.config.benchmarks import BENCHMARKS, Benchmark
from forecast.config.sources import BenchmarkSource, Source
from forecast.errors import ConfigError
from forecast.strict import StrictModel
from forecast.vocabulary import parse_duration


def _moment(given: Any) -> datetime:
    if isinstance(given, datetime):
        return given
    if isinstance(given, date):
        return datetime.combine(given, time())
    raise ConfigError(
        "splits.malformed", f"{given!r} is not a valid date", "write a date or a time as TOML does: 2024-05-01"
    )


def _part(given: Any) -> timedelta | float | datetime:
    if isinstance(given, str):
        return parse_duration(given)
    if isinstance(given, date):
        return _moment(given)
    if isinstance(given, float) and 0 < given < 1:
        return given
    raise ConfigError(
        "splits.malformed",
        f"{given!r} is not a valid split",
        'write a duration such as "21d", a share of all rows such as 0.1, or its first date',
    )


Moment = Annotated[datetime, PlainValidator(_moment)]
Part = Annotated[timedelta | float | datetime, PlainValidator(_part)]


class Splits(StrictModel):
    """The newest rows, withheld from the fit, in time order: validation (early stopping), calibration, holdout.

    Each part is a duration, a share of all rows, or its first time (naive: a wall time of the data set's zone).
    It ends where the next one begins.

    >>> splits = Splits.model_validate({"validation": "2w", "calibration": 0.1, "holdout": date(2024, 5, 1)})
    >>> splits.validation.days, splits.calibration, splits.holdout.isoformat()
    (14, 0.1, '2024-05-01T00:00:00')
    """

    validation: Part = timedelta(days=21)
    calibration: Part = timedelta(days=28)
    holdout: Part = timedelta(days=21)
    until: Moment | None = None
    """Rows from this time on are used neither for training nor for scoring."""
    published: bool = False
    """Benchmarks only: training and test part as published. Early stopping gets the first half of the published
    validation part, calibration the second."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.published and len(self.model_fields_set) > 1:
            message = "published = true fixes every part; leave the other fields out"
            raise ValueError(message)
        if sum(part for part in self.parts.values() if isinstance(part, float)) >= 1:
            message = "validation, calibration and holdout leave no rows to fit on"
            raise ValueError(message)
        return self

    @property
    def parts(self) -> dict[str, timedelta | float | datetime]:
        """The parts by name, in time order."""
        return {"validation": self.validation, "calibration": self.calibration, "holdout": self.holdout}

    def check(self, source: Source, frequency: str, horizon: int, zone: tzinfo) -> None:
        """Raise ``ValueError`` if the splits cannot work for any rows.

        A part must not be shorter than the ``horizon`` (in steps of ``frequency``). ``published`` needs a benchmark:
        ``splits.not_published`` otherwise.
        """
        if self.published:
            _check_published(source, frequency, horizon)
            return
        # Newest part first: each part ends where the one after it begins. Of a share of all rows the length is unknown.
        end = None if self.until is None else instant(self.until, zone)
        for name, part in reversed(self.parts.items()):
            begin = None
            if isinstance(part, timedelta):
                length: timedelta | None = part
                begin = None if end is None else end - part
            elif isinstance(part, datetime):
                begin = instant(part, zone)
                length = None if end is None else end - begin
            else:
                length = None
            if length is not None and length < parse_duration(frequency) * horizon:
                message = (
                    f"splits.{name} ({max(length, timedelta(0))}) is shorter than the longest horizon "
                    f"({horizon} steps of {frequency}); no window would fit"
                )
                raise ValueError(message)
            end = begin


def instant(moment: datetime, zone: tzinfo) -> datetime:
    """Return a time of the config file in UTC; a naive one is a wall time of ``zone``."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def published_rows(source: Source, rows: int) -> tuple[int, int, int]:
    """Return the row counts of a benchmark's published training, validation and test part, out of ``rows`` rows.

    Raises ``splits.not_published`` if the source is not a benchmark.
    """
    fixed = _benchmark(source).published
    if fixed is not None:
        return fixed
    train, test = int(rows * 0.7), int(rows * 0.2)
    return train, rows - train - test, test


def _benchmark(source: Source) -> Benchmark:
    if not isinstance(source, BenchmarkSource):
        raise ConfigError(
            "splits.not_published",
            f'a source of kind "{source.kind}" has no published splits',
            "leave out splits.published and give validation, calibration and holdout",
        )
    return BENCHMARKS[source.name]


def _check_published(source: Source, frequency: str, horizon: int) -> None:
    benchmark = _benchmark(source)
    if parse_duration(benchmark.frequency) != parse_duration(frequency):
        message = f"splits.published counts steps of {benchmark.frequency}, but frequency is {frequency}"
        raise ValueError(message)
    _, validation, test = benchmark.published or (0, 2 * horizon, horizon)
    if min(validation // 2, test) < horizon:
        message = (
            f"half of the published validation part ({validation // 2} steps) is shorter than the longest horizon "
            f"({horizon} steps); no window would fit"
        )
        raise ValueError(message)
