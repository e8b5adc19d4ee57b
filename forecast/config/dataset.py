"""The job file ``forecast.toml``: which data, which models, which schedule. A typo in it is an error that says so."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from forecast.config.alerts import AlertRule
from forecast.config.benchmarks import with_known_channels
from forecast.config.channels import Channel
from forecast.config.checks import mistakes
from forecast.config.jobs import JOB_NAME, Job
from forecast.config.sources import ReplaySource, Source
from forecast.config.splits import Splits
from forecast.config.training import PromotionPolicy, Training
from forecast.errors import ConfigError, ForecastError, NotFoundError, StorageError, nearest
from forecast.holidays import holiday_calendar
from forecast.strict import StrictModel
from forecast.vocabulary import Action, Doubled, Horizon, Quantile, Resample, Role, parse_duration

RESERVED = frozenset({"series", "time", "month", "version", "row"})
_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_CHANNEL = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


class DatasetConfig(StrictModel):
    """Everything the service must know of one data set."""

    title: str = ""
    source: Source
    frequency: str
    zone: str = "UTC"
    time: str = "time"
    """The column of times: naive ones are wall times of ``zone``."""
    time_format: str = ""
    """How times are written, such as ``%d.%m.%Y %H:%M``; found out from the first one if empty."""
    series: str = "series"
    """The column that names the series; empty: the source has one, called as the data set."""
    holidays: str = ""
    """Country, or country and subdivision, whose holidays are a covariate: ``US`` or ``US-NY``."""
    doubled_hour: Doubled = Doubled.IN_ORDER
    """What a naive time means that autumn's clock change doubles."""
    channels: dict[Annotated[str, Field(pattern=_CHANNEL)], Channel]
    statics: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = Field(default_factory=dict)
    """Static covariates: by series, numbers by name, the same names for every series."""
    known_series: tuple[str, ...] = ()
    """The series that may come in; others are handled by the check ``unknown_series``. Empty: any."""
    checks: dict[str, Action] = Field(default_factory=dict)
    """What is done about what a check finds, by the check's name, where it is not the usual."""
    quarantine_limit: float = Field(default=0.2, ge=0, le=1)
    """Share of a batch's rows above which it is refused whole instead of being put aside row by row."""
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
    promotion: PromotionPolicy = PromotionPolicy()
    live_correction: bool = True
    """Whether quantiles are moved by what came true since the training (:mod:`forecast.monitoring.correction`)."""
    alerts: tuple[AlertRule, ...] = ()
    webhook: str = ""
    """The address that alerts are posted to."""
    stale_after: str = "24h"
    """Age from which a forecast is called stale."""
    retention: str = "30d"
    """How far back maintenance leaves every version of the data readable."""

    @model_validator(mode="before")
    @classmethod
    def _benchmarks_have_known_channels(cls, document: Any) -> Any:
        return with_known_channels(document)

    @field_validator("frequency", "stale_after", "retention")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        parse_duration(text)
        return text

    @field_validator("webhook")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        if url:
            try:
                parts = urlsplit(url)
                is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            except ValueError:
                is_one = False
            if not is_one or not url.isascii() or any(sign.isspace() for sign in url):
                message = "it is not the address of a web server; write it as https://host/path"
                raise ValueError(message)
        return url

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
        columns = [channel.column or name for name, channel in channels.items()]
        for column in {column for column in columns if columns.count(column) > 1}:
            message = f'two channels are read from the column "{column}"'
            raise ValueError(message)
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

    @field_validator("checks")
    @classmethod
    def _checks_are_known(cls, chosen: dict[str, Action]) -> dict[str, Action]:
        for mistake in mistakes(chosen):
            raise mistake
        return chosen

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
        if len({frozenset(numbers) for numbers in self.statics.values()}) > 1:
            message = "statics must have the same names for every series"
            raise ValueError(message)
        for name in self.options:
            if name not in self.contenders:
                message = f'options are given for "{name}", which is not among models'
                raise ValueError(message)
        self.splits.check(self)
        return self

    @property
    def replay(self) -> ReplaySource | None:
        """The source, if it is a replay."""
        return self.source if isinstance(self.source, ReplaySource) else None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the channels that are forecast, in the order of the job file."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.TARGET)

    @property
    def past_covariates(self) -> tuple[str, ...]:
        """Names of the covariates known up to the origin."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.PAST)

    @property
    def future_covariates(self) -> tuple[str, ...]:
        """Names of the covariates known beyond the origin."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.FUTURE)

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of all models that a night compares: those asked for, and the baselines."""
        return tuple(dict.fromkeys((*self.models, *self.training.baselines)))

    @property
    def resamples(self) -> bool:
        """Whether rows may lie anywhere within a step."""
        return any(channel.resample is not Resample.NONE for channel in self.channels.values())

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


class ConfigFile(StrictModel):
    """The whole of ``forecast.toml``."""

    datasets: dict[Annotated[str, Field(pattern=_NAME)], DatasetConfig] = Field(min_length=1)
    jobs: dict[Annotated[str, Field(pattern=JOB_NAME)], Job] = Field(default_factory=dict)
    """What is done and when, by the job's name; more may be defined by command or over REST."""

    @model_validator(mode="after")
    def _jobs_have_data_sets(self) -> Self:
        for name, job in self.jobs.items():
            try:
                self.check_job(name, job)
            except ForecastError as error:
                raise ValueError(str(error)) from error
        return self

    def check_job(self, name: str, job: Job) -> None:
        """Raise a ``job.*`` error if a job asks for something that this file does not have."""
        if job.dataset not in self.datasets:
            raise ConfigError(
                "job.no_data_set", f'job "{name}" is for the data set "{job.dataset}", which there is not',
                nearest(job.dataset, self.datasets),
            )  # fmt: skip

    def dataset(self, name: str | None) -> tuple[str, DatasetConfig]:
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


def load_config_file(path: Path) -> ConfigFile:
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
        return ConfigFile.model_validate(document)
    except ValidationError as error:
        mistakes = [_told(item) for item in error.errors()]
        raise ConfigError("job_file.invalid", f'"{path.name}": ' + "\n  ".join(mistakes), "") from error


def _told(item: ErrorDetails) -> str:
    # pydantic names the kind of source among the places of the file, though it is none.
    at = item["loc"][:3] + item["loc"][4:] if item["loc"][2:3] == ("source",) else item["loc"]
    place = ".".join(str(part) for part in at)
    if item["type"] == "extra_forbidden" and item["loc"][2:] == ("schedule",):
        return f'"{place}" is no more; say what is done and when in [jobs.<name>], see docs/operating.md'
    if item["type"] == "extra_forbidden":
        fields = _fields_at(item["loc"][:-1])
        return f'"{place}" is not a field; {nearest(str(item["loc"][-1]), fields)}'
    if item["type"] == "missing":
        return f'"{place}" is missing'
    return f'"{place or "file"}": {item["msg"].removeprefix("Value error, ")}'


def _fields_at(location: tuple[int | str, ...]) -> Mapping[str, Any]:
    """Return the fields that may stand at a place of the job file."""
    tables: dict[str, type[BaseModel]] = {
        "channels": Channel, "splits": Splits, "training": Training, "promotion": PromotionPolicy,
        "alerts": AlertRule,
    }  # fmt: skip
    match location:
        case ():
            return ConfigFile.model_fields
        case ("jobs", *_):
            return Job.model_fields
        case (_, _):  # datasets, and a data set's name
            return DatasetConfig.model_fields
        case (_, _, "source", str(kind)):
            return _SOURCES[kind].model_fields
        case (_, _, table, *_):
            return tables[str(table)].model_fields
        case _:  # pragma: no cover - the names of data sets are free
            return {}


_SOURCES: Mapping[str, type[BaseModel]] = {
    kind: source
    for source in get_args(get_args(Source)[0])
    for kind in get_args(source.model_fields["kind"].annotation)
}
