"""The job file ``forecast.toml``: which data, which models, which schedule. A typo in it is an error that says so."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from forecast.cron import cron_trigger
from forecast.errors import ConfigError, NotFoundError, StorageError, nearest
from forecast.holidays import holiday_calendar
from forecast.vocabulary import Fill, Horizon, Quantile, Role, parse_duration

RESERVED = frozenset({"series", "time", "month"})
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_CHANNEL = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Channel(_Strict):
    """One column of a data set: what it is to the forecast, its unit, its bounds, and how its gaps are filled."""

    role: Role
    unit: str = ""
    lower: float | None = Field(default=None, allow_inf_nan=False)
    """Smallest value that can be; smaller ones are refused at ingestion and never forecast."""
    upper: float | None = Field(default=None, allow_inf_nan=False)
    """Largest value that can be."""
    fill: Fill = Fill.LINEAR
    fill_limit: int = Field(default=48, ge=0, strict=True)
    """The most consecutive missing steps that are filled; a longer gap stays, and no training window crosses it."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            message = f"lower ({self.lower}) must be less than upper ({self.upper})"
            raise ValueError(message)
        return self


class Source(_Strict):
    """Where rows come from."""

    kind: Literal["csv", "parquet", "replay"]
    path: str
    """A file; ``sample:nyc-airports`` is the sample that comes with the package. Relative to the job file."""
    start: datetime | None = None
    """replay: the local wall time at which the replay begins."""
    speed: float = Field(default=720.0, gt=0, le=1e6)
    """replay: seconds of the data's time that pass in one real second."""

    @model_validator(mode="after")
    def _replay_has_a_start(self) -> Self:
        if (self.kind == "replay") != (self.start is not None):
            message = 'start is needed by, and only by, kind = "replay"'
            raise ValueError(message)
        return self


class Splits(_Strict):
    """How much of the newest history is kept from the fit, in time order: early stopping, calibration, holdout."""

    validation: str = "21d"
    calibration: str = "28d"
    holdout: str = "21d"

    _durations = field_validator("validation", "calibration", "holdout")(lambda text: (parse_duration(text), text)[1])


class Training(_Strict):
    """The budget of one training."""

    max_epochs: int = Field(default=20, ge=1, strict=True)
    batch_size: int = Field(default=64, ge=1, strict=True)
    budget: str = "30m"
    """Wall time that one model may train for; the best weights so far are kept."""
    patience: int = Field(default=3, ge=1, strict=True)
    seed: int = Field(default=0, ge=0, strict=True)
    stride: int = Field(default=1, ge=1, strict=True)
    """Steps between two training windows: 1 takes every window."""
    min_gain: float = Field(default=0.01, ge=0, lt=1)
    """Relative gain on the holdout below which a challenger does not replace the champion."""

    _budget = field_validator("budget")(lambda text: (parse_duration(text), text)[1])


class Schedule(_Strict):
    """When things happen: cron in the data set's zone, empty for never."""

    refresh: str = ""
    """Ingest what is new, then issue a forecast."""
    retrain: str = ""
    """Ingest, train challengers, compare with the champion, promote or not, issue a forecast."""

    @field_validator("refresh", "retrain")
    @classmethod
    def _cron(cls, text: str) -> str:
        if text:
            cron_trigger(text, "UTC")  # raises ValueError
        return text


class DatasetJob(_Strict):
    """Everything the service must know of one data set."""

    title: str = ""
    source: Source
    frequency: str
    zone: str = "UTC"
    time: str = "time"
    """The column of times: naive ones are wall times of ``zone``."""
    series: str = "series"
    """The column that names the series."""
    holidays: str = ""
    """Country, or country and subdivision, whose holidays are a covariate: ``US`` or ``US-NY``."""
    channels: dict[Annotated[str, Field(pattern=_CHANNEL)], Channel]
    horizons: tuple[int, ...] = Field(min_length=1)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    lookback: int = Field(ge=1, strict=True)
    season: int = Field(ge=1, strict=True)
    """Steps of the season that naive forecasts repeat, such as 168 hours."""
    models: tuple[str, ...] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Hyperparameters by model name; the model checks them."""
    splits: Splits = Splits()
    training: Training = Training()
    schedule: Schedule = Schedule()
    stale_after: str = "24h"
    """Age from which a forecast is called stale."""

    @field_validator("frequency", "stale_after")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        parse_duration(text)
        return text

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str) -> str:
        if zone not in available_timezones():
            message = f'"{zone}" is not an IANA time zone; {nearest(zone, available_timezones())}'
            raise ValueError(message)
        return zone

    @field_validator("horizons")
    @classmethod
    def _horizons_ascend(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        for steps in horizons:
            Horizon(steps)
        if sorted(set(horizons)) != list(horizons):
            message = f"horizons must ascend without repetition: {sorted(set(horizons))}"
            raise ValueError(message)
        return horizons

    @field_validator("quantiles")
    @classmethod
    def _quantiles_ascend(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        for level in levels:
            Quantile(level)
        symmetric = all(abs(low + high - 1) < 1e-9 for low, high in zip(levels, reversed(levels), strict=True))
        if sorted(set(levels)) != list(levels) or 0.5 not in levels or not symmetric:
            message = f"quantiles must ascend, lie symmetrically around 0.5 and contain it, not {list(levels)}"
            raise ValueError(message)
        return levels

    @field_validator("channels")
    @classmethod
    def _channels_are_not_key_columns(cls, channels: dict[str, Channel]) -> dict[str, Channel]:
        for name in RESERVED & channels.keys():
            message = f'a channel cannot be called "{name}": the lake has a column of that name'
            raise ValueError(message)
        return channels

    @field_validator("models")
    @classmethod
    def _models_are_named_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            message = f"each model is named once, not {list(models)}"
            raise ValueError(message)
        return models

    @field_validator("holidays")
    @classmethod
    def _holidays_are_known(cls, place: str) -> str:
        holiday_calendar(place, ())
        return place

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.targets:
            message = 'at least one channel needs role = "target"'
            raise ValueError(message)
        if self.season > self.lookback:
            message = f"lookback ({self.lookback}) must not be shorter than season ({self.season})"
            raise ValueError(message)
        for name in self.options:
            if name not in self.models:
                message = f'options are given for "{name}", which is not among models'
                raise ValueError(message)
        for part in ("validation", "calibration", "holdout"):
            length = parse_duration(getattr(self.splits, part))
            if length < self.step * self.horizon:
                message = (
                    f"splits.{part} ({getattr(self.splits, part)}) is shorter than the longest horizon "
                    f"({self.horizon} steps of {self.frequency}); no window would fit"
                )
                raise ValueError(message)
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the channels that are forecast, in the order of the job file."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.TARGET)

    @property
    def past_covariates(self) -> tuple[str, ...]:
        """Names of the covariates known up to the origin."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.PAST)

    @property
    def horizon(self) -> int:
        """The longest horizon: the one models are trained at."""
        return self.horizons[-1]

    @property
    def step(self) -> timedelta:
        """Time between two rows."""
        return parse_duration(self.frequency)

    @property
    def counts_days(self) -> bool:
        """Whether a step is whole days: rows are then dates, told as midnight UTC, whatever the zone's clock does."""
        return self.step >= timedelta(days=1)

    @property
    def tz(self) -> ZoneInfo:
        """The zone in which rows are told and the calendar is read."""
        return ZoneInfo("UTC" if self.counts_days else self.zone)

    @property
    def schedule_tz(self) -> ZoneInfo:
        """The zone of schedules and of naive times in the job file."""
        return ZoneInfo(self.zone)


class JobFile(_Strict):
    """The whole of ``forecast.toml``."""

    datasets: dict[Annotated[str, Field(pattern=_NAME)], DatasetJob] = Field(min_length=1)

    def dataset(self, name: str | None) -> tuple[str, DatasetJob]:
        """Return the named data set, or the only one if no name is given."""
        if name is None:
            if len(self.datasets) > 1:
                raise ConfigError(
                    "dataset.ambiguous",
                    f"the job file has {len(self.datasets)} data sets",
                    f"name one of: {', '.join(self.datasets)}",
                )
            name = next(iter(self.datasets))
        if name not in self.datasets:
            raise NotFoundError("dataset.unknown", f'no data set "{name}"', nearest(name, self.datasets))
        return name, self.datasets[name]


def load_job_file(path: Path) -> JobFile:
    """Read and check a job file; every mistake in it is named with its place and its remedy in one error."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(
            "job_file.unreadable", f'cannot read "{path}" ({error.strerror})', "check the path and its permissions"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "job_file.malformed", f'"{path}" is not valid TOML: {error}', "mend the line it names"
        ) from error
    try:
        return JobFile.model_validate(document)
    except ValidationError as error:
        mistakes = [_told(item) for item in error.errors()]
        raise ConfigError("job_file.invalid", f'"{path.name}": ' + "\n  ".join(mistakes), "") from error


def _told(item: ErrorDetails) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        fields = _fields_at(item["loc"][:-1])
        return f'"{place}" is not a field; {nearest(str(item["loc"][-1]), fields)}'
    if item["type"] == "missing":
        return f'"{place}" is missing'
    return f'"{place or "file"}": {item["msg"].removeprefix("Value error, ")}'


def _fields_at(location: tuple[int | str, ...]) -> Mapping[str, Any]:
    """Return the fields that may stand at a place of the job file."""
    tables: dict[str, type[BaseModel]] = {
        "channels": Channel, "source": Source, "splits": Splits, "training": Training, "schedule": Schedule,
    }  # fmt: skip
    match location:
        case ():
            return JobFile.model_fields
        case (_, _):  # datasets, and a data set's name
            return DatasetJob.model_fields
        case (_, _, table, *_):
            return tables[str(table)].model_fields
        case _:  # pragma: no cover - the names of data sets are free
            return {}
