"""Schemas of forecasts, data sets, health and problem documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from forecast.provenance import Provenance
from forecast.vocabulary import MAX_HORIZON, Role


class ForecastQuery(BaseModel):
    """Selection of a part of a forecast; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    series: Annotated[list[str], Field(description="Series, repeated or comma separated; default: all.")] = []
    channels: Annotated[list[str], Field(description="Channels, repeated or comma separated; default: all.")] = []
    horizon: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_HORIZON,
            description="Steps from the origin; default: the trained horizon. Steps beyond it are recursive.",
        ),
    ] = None
    quantiles: Annotated[
        list[str], Field(description="Quantile levels, repeated or comma separated; default: all trained levels.")
    ] = []
    as_of: Annotated[
        str | None,
        Field(description="RFC 3339 time with offset: the latest forecast at that time, on the data set's clock."),
    ] = None
    tz: Annotated[str | None, Field(description="IANA time zone of returned timestamps; default: UTC.")] = None
    start: Annotated[str | None, Field(description="RFC 3339 time with offset: start of the range, included.")] = None
    end: Annotated[str | None, Field(description="RFC 3339 time with offset: end of the range, excluded.")] = None
    model: Annotated[
        str | None, Field(description="Model version: the latest forecast issued with it.", max_length=200)
    ] = None
    lead_time: Annotated[
        str | None,
        Field(
            description="Duration such as 24h: the rolling forecast; for each time the value issued that long before.",
            max_length=20,
        ),
    ] = None


class Point(BaseModel):
    """One step of a forecast."""

    time: datetime
    lead: int = Field(description="1 for the first step after the newest row.")
    mean: float
    quantiles: dict[str, float] = Field(description="By level, ascending.")
    recursive: bool = Field(description="Beyond the trained horizon: computed from the forecast's own median.")


class ForecastLine(BaseModel):
    """The forecast of one channel of one series."""

    series: str
    channel: str
    unit: str
    points: list[Point]


class ForecastAnswer(BaseModel):
    """A forecast and its provenance.

    A field named like one of the issuance is filled from it; with a ``title`` the forecast's page shows it, too.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "age": 5400,
                    "stale": False,
                    "dataset": "nyc-airports",
                    "forecast_id": "67ec2cbaeefd46d3a960cdace45fb39f",
                    "issued_at": "2013-11-02T02:30:00Z",
                    "origin": "2013-11-02T02:00:00Z",
                    "data_version": 0,
                    "model_name": "linear",
                    "model_version": "linear-20131102T023000-00534b",
                    "fallback_reason": None,
                    "imputed_fraction": 0.0966,
                    "newest_observed": "2013-11-02T00:00:00Z",
                    "frequency": "1h",
                    "horizon": 1,
                    "horizon_trained": 336,
                    "recursive": False,
                    "quantiles": [0.1, 0.5, 0.9],
                    "zone": "UTC",
                    "provenance": {
                        "model_digest": "5b9b148799bc35e0022ea8c97a5a412319b2f4df160496d9b2aa6e620edf0a47",
                        "kernels": {},
                        "data_digest": "ba5d33b49e157dbdaa1310d8bcfb6cb5a2949d4419d57027b403bc2597bd8be2",
                        "data_recorded_at": "2026-11-27T02:47:38.243430Z",
                        "covariates_version": None,
                        "covariates_recorded_at": None,
                        "covariates_until": None,
                        "code_version": "0.1.0",
                        "code_commit": None,
                        "code_changed": False,
                        "runtime": "onnxruntime 1.31.1",
                        "provider": "CPUExecutionProvider",
                        "threads": 0,
                        "machine": "Linux x86_64",
                        "hindsight": False,
                    },
                    "forecasts": [
                        {
                            "series": "JFK",
                            "channel": "departures",
                            "unit": "flights/h",
                            "points": [
                                {
                                    "time": "2013-11-02T02:00:00Z",
                                    "lead": 1,
                                    "mean": 6.1,
                                    "quantiles": {"0.1": 2.5, "0.5": 6.0, "0.9": 9.8},
                                    "recursive": False,
                                }
                            ],
                        }
                    ],
                }
            ]
        }
    )

    age: int = Field(
        description="Seconds since the forecast was issued, on the data set's clock (with as_of: at that time)."
    )
    stale: bool = Field(description="Whether the age has reached stale_after of the config file.")
    dataset: str
    forecast_id: str
    issued_at: datetime
    origin: datetime = Field(description="Time of the first step.")
    data_version: int | None = Field(
        description="Version of the data that the forecast was computed from; null if the client sent the data."
    )
    model_name: str
    model_version: str
    fallback_reason: str | None = Field(
        description="Why a model other than the champion was used; null if the champion was used."
    )
    imputed_fraction: float = Field(
        title="Imputed in the look-back", description="Share of the look-back's values that were imputed."
    )
    newest_observed: datetime | None = Field(
        description="Time of the newest observed target value, of the series and channel that is furthest behind."
    )
    frequency: str
    horizon: int
    horizon_trained: int
    recursive: bool = Field(description="Whether any step lies beyond the trained horizon.")
    quantiles: list[float]
    zone: str
    provenance: Provenance | None = Field(
        description="Digests, versions and machine; times are of the machine's clock, in UTC. Null if an earlier "
        "release issued the forecast."
    )
    forecasts: list[ForecastLine]


class RollingPoint(BaseModel):
    """The forecast of one time, issued a fixed lead before it."""

    time: datetime
    mean: float
    quantiles: dict[str, float] = Field(description="By level, ascending.")
    forecast_id: str
    issued_at: datetime
    model_version: str


class RollingLine(BaseModel):
    """The rolling forecast of one channel of one series; times without an issued forecast are left out."""

    series: str
    channel: str
    unit: str
    points: list[RollingPoint]


class RollingAnswer(BaseModel):
    """The rolling forecast at a fixed lead, taken from issued forecasts."""

    dataset: str
    lead_time: str
    lead: int = Field(description="lead_time in steps.")
    frequency: str
    quantiles: list[float]
    zone: str
    forecasts: list[RollingLine]


class ChannelInfo(BaseModel):
    """One channel of a data set."""

    name: str
    role: Role
    unit: str
    lower: float | None
    upper: float | None


class ChampionInfo(BaseModel):
    """A model version that is or was champion."""

    model_name: str
    model_version: str
    promoted_at: datetime
    verdict: str


class LatestInfo(BaseModel):
    """The latest issued forecast."""

    forecast_id: str
    issued_at: datetime
    model_version: str
    age: int
    stale: bool


class DatasetInfo(BaseModel):
    """One data set: its series and channels, its newest row, its champion and its latest forecast."""

    name: str
    title: str
    frequency: str
    zone: str
    series: list[str]
    channels: list[ChannelInfo]
    horizons: list[int]
    quantiles: list[float]
    data_version: int | None
    newest_row: datetime | None = Field(description="Time of the newest row of any series; null without rows.")
    champion: ChampionInfo | None
    latest_forecast: LatestInfo | None


class DatasetList(BaseModel):
    """All data sets."""

    datasets: list[DatasetInfo]


class Liveness(BaseModel):
    """The process is alive."""

    status: str = "alive"


class DatasetReadiness(BaseModel):
    """Whether one data set can be served, and its faults."""

    dataset: str
    ready: bool
    forecast_id: str | None
    age: int | None
    stale: bool | None
    reasons: list[str] = Field(description="Stable codes; empty without faults.")


class Readiness(BaseModel):
    """``ready``; ``degraded``: everything is served, but a part is stale or unreachable; or ``not ready``."""

    status: str
    reasons: list[str] = Field(default=[], description="Codes of faults of the whole installation.")
    datasets: list[DatasetReadiness] = Field(description="Empty if the request needs a key and has none.")


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable: never changes after its release.", examples=["dataset.unknown"])
    detail: str
    remedy: str
