"""Config of one data set, ``[datasets.<name>]``: its source, channels, horizons, models, promotion and alerts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from forecast.config.alerts import AlertRule
from forecast.config.benchmarks import with_known_channels
from forecast.config.channels import Channel
from forecast.config.checks import mistakes
from forecast.config.sources import ReplaySource, Source
from forecast.config.splits import Splits
from forecast.config.training import PromotionPolicy, Training
from forecast.errors import nearest
from forecast.holidays import holiday_calendar
from forecast.strict import StrictModel
from forecast.vocabulary import Action, Doubled, Horizon, Quantile, Resample, Role, parse_duration

RESERVED = frozenset({"series", "time", "month", "version", "row"})
_CHANNEL = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


class DatasetConfig(StrictModel):
    """Config of one data set: ``[datasets.<name>]``."""

    title: str = ""
    source: Source
    frequency: str
    zone: str = "UTC"
    time: str = "time"
    """The column of timestamps; naive ones are wall times of ``zone``."""
    time_format: str = ""
    """Format of the timestamps, such as ``%d.%m.%Y %H:%M``; empty: inferred from the first one."""
    series: str = "series"
    """The column of series names; empty: the source has a single series, named after the data set."""
    holidays: str = ""
    """Country, or country and subdivision, whose holidays are a covariate: ``US`` or ``US-NY``."""
    doubled_hour: Doubled = Doubled.IN_ORDER
    """How to read naive wall times in the hour that autumn's clock change repeats."""
    channels: dict[Annotated[str, Field(pattern=_CHANNEL)], Channel]
    statics: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = Field(default_factory=dict)
    """Static covariates by series, then by name; every series has the same names."""
    known_series: tuple[str, ...] = ()
    """Series that ingestion accepts; the check ``unknown_series`` handles all others. Empty: any."""
    checks: dict[str, Action] = Field(default_factory=dict)
    """Action by check name, where it differs from the check's default."""
    quarantine_limit: float = Field(default=0.2, ge=0, le=1)
    """Share of quarantined rows above which the whole batch is rejected."""
    horizons: tuple[int, ...] = Field(min_length=1)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    lookback: int = Field(ge=1, strict=True)
    season: int = Field(ge=1, strict=True)
    """Season length in steps, such as 168 hours; the seasonal naive forecast repeats it."""
    models: tuple[str, ...] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Hyperparameters by model name; the model checks them."""
    splits: Splits = Splits()
    training: Training = Training()
    promotion: PromotionPolicy = PromotionPolicy()
    live_correction: bool = True
    """Whether recent errors correct the quantiles between trainings (:mod:`forecast.monitoring.correction`)."""
    alerts: tuple[AlertRule, ...] = ()
    webhook: str = ""
    """URL that alerts are posted to."""
    stale_after: str = "24h"
    """Age from which a forecast counts as stale."""
    retention: str = "30d"
    """How far back every data version stays readable; maintenance removes older versions."""

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
                message = "webhook is not a valid URL; write it as https://host/path"
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
            message = f"horizons must ascend without repetition, such as {sorted(set(horizons))}"
            raise ValueError(message)
        return horizons

    @field_validator("quantiles")
    @classmethod
    def _quantiles_ascend(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        for level in levels:
            Quantile(level)
        symmetric = all(abs(low + high - 1) < 1e-9 for low, high in zip(levels, reversed(levels), strict=True))
        if sorted(set(levels)) != list(levels) or 0.5 not in levels or not symmetric:
            message = f"quantiles must ascend, contain 0.5 and be symmetric around it: {list(levels)} are not"
            raise ValueError(message)
        return levels

    @field_validator("channels")
    @classmethod
    def _channels_are_not_key_columns(cls, channels: dict[str, Channel]) -> dict[str, Channel]:
        columns = [channel.column or name for name, channel in channels.items()]
        for column in {column for column in columns if columns.count(column) > 1}:
            message = f'two channels read the column "{column}"'
            raise ValueError(message)
        for name in RESERVED & channels.keys():
            message = f'"{name}" is a reserved column name; choose another channel name'
            raise ValueError(message)
        return channels

    @field_validator("models")
    @classmethod
    def _models_are_named_once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            message = f"models must not repeat a name: {list(models)}"
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
            if name not in self.candidates:
                message = f'options name "{name}", which is not among models'
                raise ValueError(message)
        self.splits.check(self.source, self.frequency, self.horizon, self.tz)
        return self

    @property
    def replay(self) -> ReplaySource | None:
        """The source if it is a replay, else ``None``."""
        return self.source if isinstance(self.source, ReplaySource) else None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the target channels, in the order of the config file."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.TARGET)

    @property
    def past_covariates(self) -> tuple[str, ...]:
        """Names of the past covariates (known up to the origin)."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.PAST)

    @property
    def future_covariates(self) -> tuple[str, ...]:
        """Names of the future covariates (known beyond the origin)."""
        return tuple(name for name, channel in self.channels.items() if channel.role is Role.FUTURE)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of all models that a night compares: ``models`` and the baselines."""
        return tuple(dict.fromkeys((*self.models, *self.training.baselines)))

    @property
    def resamples(self) -> bool:
        """Whether any channel is resampled, so that rows may lie off the grid."""
        return any(channel.resample is not Resample.NONE for channel in self.channels.values())

    @property
    def horizon(self) -> int:
        """The longest horizon, which models are trained for."""
        return self.horizons[-1]

    @property
    def step(self) -> timedelta:
        """Time between two rows."""
        return parse_duration(self.frequency)

    @property
    def counts_days(self) -> bool:
        """Whether a step is a day or longer: rows are then dates, stored as midnight UTC whatever ``zone`` is."""
        return self.step >= timedelta(days=1)

    @property
    def tz(self) -> ZoneInfo:
        """Time zone of rows and calendar features: UTC for daily data, else ``zone``."""
        return ZoneInfo("UTC" if self.counts_days else self.zone)

    @property
    def schedule_tz(self) -> ZoneInfo:
        """Time zone of schedules and of naive times in the config file."""
        return ZoneInfo(self.zone)
