"""Forecasts on demand: read a request with its own history, check it, and run the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.dependencies import find_dataset
from api.forecasts.selection import instant
from api.requests.json_body import parse
from api.schemas.models import CHAMPION
from api.service import Service
from api.state.champions import Loaded
from api.state.issued import IssuedForecast
from forecast.errors import DataError
from forecast.installation import Dataset
from forecast.panel import Panel
from forecast.vocabulary import MAX_HORIZON
from pipelines.forecasting.issuance import new_issuance
from pipelines.forecasting.on_demand import check, from_columns, from_rows
from pipelines.sources.request_body import from_body, from_json

MOST_POINTS = 200_000
"""Limit of one answer: series times channels times steps."""
_LONG_BODY = 256 * 2**10

Numbers = list[Annotated[float, Field(strict=True)] | None]
Name = Annotated[str, Field(max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class History(_Body):
    """Values on the data set's grid."""

    start: str = Field(description="RFC 3339 time with offset of the first value.", max_length=40)
    series: dict[Name, dict[Name, Numbers]] = Field(
        description="By series and channel, all of one length; null for a missing value. In the channels' units.",
        min_length=1,
    )


class OnDemandQuery(_Body):
    """Selection of data set, model and forecast."""

    dataset: Name = Field(description="Name of a data set, whose models can be used.")
    model: Name = Field(default=CHAMPION, description="Model version, or champion or previous.")
    horizon: int | None = Field(
        default=None,
        ge=1,
        le=MAX_HORIZON,
        description="Steps; default: the trained horizon. Steps beyond it are recursive.",
    )
    quantiles: list[float] = Field(default=[], max_length=100, description="Trained quantile levels; default: all.")
    tz: Name | None = Field(default=None, description="IANA time zone of returned timestamps; default: UTC.")


class OnDemandRequest(OnDemandQuery):
    """A forecast from the client's history: ``history`` on the grid, or ``rows`` as they would be pushed."""

    history: History | None = None
    future: dict[Name, dict[Name, Numbers]] = Field(
        default={}, description="With history: known-future covariates by series and channel, starting at its end."
    )
    rows: list[dict[str, Any]] | dict[str, list[Any]] | None = Field(
        default=None, description="Records or columns, named as in the source; known-future covariates have later rows."
    )

    @model_validator(mode="after")
    def _one_history(self) -> OnDemandRequest:
        if (self.history is None) == (self.rows is None):
            message = "give either history or rows"
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that passed all checks: its forecast can be computed."""

    dataset: Dataset
    loaded: Loaded
    panel: Panel
    horizon: int


async def read_json(body: bytes, service: Service) -> tuple[OnDemandRequest, CheckedRequest]:
    """Read a JSON body; raises what ``parse``, ``from_json`` and ``Champions.of`` raise."""
    is_long = len(body) > _LONG_BODY
    names = service.champions.names()
    request = await run_sync(parse, body, OnDemandRequest, names) if is_long else parse(body, OnDemandRequest, names)
    dataset = find_dataset(request.dataset, service)
    loaded = await service.champions.of(dataset.name, request.model)
    if request.history is None:
        panel = await run_sync(lambda: from_rows(from_json(request.rows, dataset.config, dataset.name), dataset.config))
        return request, check_request(panel, request.horizon, dataset, loaded, service)
    start = instant(request.history.start, "history.start")
    assert start is not None  # noqa: S101 - a text was given
    values = (start, request.history.series, request.future, dataset.config, loaded.model.manifest.scaler.targets)
    panel = await run_sync(from_columns, *values) if is_long else from_columns(*values)
    return request, check_request(panel, request.horizon, dataset, loaded, service)


async def read_rows(body: bytes, media: str, query: OnDemandQuery, service: Service) -> CheckedRequest:
    """Read a body of rows in CSV, JSON lines, Arrow or Parquet."""
    dataset = find_dataset(query.dataset, service)
    loaded = await service.champions.of(dataset.name, query.model)
    panel = await run_sync(lambda: from_rows(from_body(body, media, dataset.config, dataset.name), dataset.config))
    return check_request(panel, query.horizon, dataset, loaded, service)


def check_request(
    panel: Panel,
    horizon: int | None,
    dataset: Dataset,
    loaded: Loaded,
    service: Service,
    *,
    only_trained: bool = True,
) -> CheckedRequest:
    """Check that a forecast can be computed; raises what ``check`` raises, and ``forecast.too_long``."""
    latest = service.latest.find(dataset.name)
    on = None if latest is None else latest.issuance.origin
    check(panel, loaded.model.manifest, dataset.config, on, only_trained=only_trained)
    horizon = horizon or loaded.model.manifest.horizon
    require_points(len(panel.series) * len(dataset.config.targets) * horizon)
    return CheckedRequest(dataset, loaded, panel, horizon)


def require_points(points: int) -> None:
    """Raise ``forecast.too_long`` if an answer exceeds the limit of one request."""
    if points > MOST_POINTS:
        raise DataError(
            "forecast.too_long",
            f"series times channels times steps are {points} and exceed {MOST_POINTS}",
            "request fewer steps, or send fewer series at once",
        )


async def forecast(checked: CheckedRequest, service: Service) -> IssuedForecast:
    """Compute a forecast. It has the form of an issued one, but is stored nowhere."""
    prediction = await service.champions.forecast(checked.loaded, checked.panel, checked.horizon)
    dataset, panel, manifest = checked.dataset, checked.panel, checked.loaded.model.manifest
    issuance = new_issuance(dataset, checked.loaded.champion, manifest, panel, service.latest.now(dataset.name))
    mean, quantiles = prediction.mean.transpose(0, 2, 1), prediction.quantiles.transpose(0, 2, 1, 3)
    return IssuedForecast(issuance, dataset.config.step, panel.series, manifest.targets, mean, quantiles)
