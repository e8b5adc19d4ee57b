"""MLflow's scoring protocol for the default data set's champion: ``/invocations``, ``/ping`` and so on."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Mapping
from typing import Any

import polars as pl
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from api.answers.on_demand import CheckedRequest, check_request
from api.auth.scopes import reads_own
from api.dependencies import ServiceDep, default_dataset
from api.errors.kinds import UnsupportedError
from api.openapi.inline import inlined
from api.openapi.responses import problems
from api.requests.bodies import read_body
from api.requests.json_body import parse
from api.requests.negotiation import CSV, JSON
from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.installation import Dataset
from forecast.panel import Panel
from forecast.runtime.model import Prediction, ServedModel
from forecast.vocabulary import MAX_HORIZON
from pipelines.preparation.clean import clean
from pipelines.tracking import mlflow_pyfunc

router = APIRouter(tags=["mlflow scoring"], dependencies=[reads_own])


class Split(BaseModel):
    """A pandas frame, ``orient="split"``."""

    model_config = ConfigDict(extra="forbid")

    columns: list[str]
    data: list[list[Any]]
    index: list[Any] | None = None


class Parameters(BaseModel):
    """``params`` of the call."""

    model_config = ConfigDict(extra="forbid")

    horizon: int | None = Field(default=None, ge=1, le=MAX_HORIZON)


class Invocation(BaseModel):
    """Rows: ``series``, ``time`` and the channels in their units, in one of MLflow's forms."""

    model_config = ConfigDict(extra="forbid")

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[dict[str, Any]] | dict[str, list[Any]] | None = None
    inputs: list[dict[str, Any]] | dict[str, list[Any]] | None = None
    params: Parameters = Parameters()

    @model_validator(mode="after")
    def _one_form(self) -> Invocation:
        if sum(form is not None for form in self._forms()) != 1:
            message = "give one of dataframe_split, dataframe_records, instances and inputs"
            raise ValueError(message)
        return self

    def _forms(self) -> tuple[object, ...]:
        return self.dataframe_split, self.dataframe_records, self.instances, self.inputs

    def frame(self) -> pl.DataFrame:
        """Return the rows as a table; raises ``invocation.malformed``."""
        if self.dataframe_split is not None:
            columns, data = self.dataframe_split.columns, self.dataframe_split.data
            if len(set(columns)) < len(columns) or any(len(row) != len(columns) for row in data):
                raise _malformed()
            return _frame({name: [row[place] for row in data] for place, name in enumerate(columns)})
        rows = next(form for form in self._forms() if form is not None)
        if isinstance(rows, list):
            names = dict.fromkeys(name for record in rows for name in record)
            return _frame({name: [record.get(name) for record in rows] for name in names})
        assert isinstance(rows, dict)  # noqa: S101 - the only other form
        return _frame(rows)


@router.get("/ping", summary="Whether the model is loaded", responses=problems(422, 503))
@router.get("/health", summary="Whether the model is loaded", responses=problems(422, 503))
async def ping(service: ServiceDep) -> Response:
    """Answer 200 if the default data set's champion is loaded."""
    await service.champions.of(default_dataset(service).name)
    return Response("{}\n", media_type=JSON)  # MLflow answers an empty body, which is not JSON


@router.get("/version", summary="Version of the service", response_class=PlainTextResponse)
async def version() -> str:
    """Return the version of the service."""
    return importlib.metadata.version("forecast-service")


@router.post(
    "/invocations",
    summary="Forecast rows in MLflow's formats",
    responses=problems(408, 413, 415, 422, 503),
    openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": inlined(Invocation)}, CSV: {}}}},
)
async def invocations(request: Request, service: ServiceDep) -> Response:
    """Answer as a model in MLflow does: one row per series, channel and step."""
    dataset = default_dataset(service)
    media = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    body = await read_body(request)
    loaded = await service.champions.of(dataset.name)
    horizon: int | None = None
    if media == JSON:
        sent = await run_sync(parse, body, Invocation)
        horizon = sent.params.horizon
        panel = await run_sync(lambda: _panel(sent.frame(), loaded.model, dataset))
    elif media == CSV:
        panel = await run_sync(lambda: _panel(_csv(body), loaded.model, dataset))
    else:
        raise UnsupportedError("body.media_type", "the content type is not supported", f"send {JSON} or {CSV}")
    wanted = check_request(panel, horizon, dataset, loaded, service)
    made = await service.champions.forecast(loaded, wanted.panel, wanted.horizon)
    content = await run_sync(_predictions, made, wanted)
    return Response(content, media_type=JSON, headers={"Cache-Control": "no-store"})


def _predictions(made: Prediction, wanted: CheckedRequest) -> bytes:
    rows = mlflow_pyfunc.to_frame(made, wanted.panel, wanted.loaded.model, wanted.dataset.config)
    return to_json({"predictions": rows.to_dicts()})


def _panel(given: pl.DataFrame, model: ServedModel, dataset: Dataset) -> Panel:
    try:
        rows = mlflow_pyfunc.rows_of(given, model, dataset.config)
        _require_sound(rows, dataset.config)
        return clean(rows, dataset.config)
    except DataError as error:
        raise DataError(error.code, _FACTS.get(error.code, error.fact), "see the route's example at /docs") from None
    except (pl.exceptions.PolarsError, OverflowError) as error:
        raise DataError(
            "forecast.not_a_number", "a channel has a value that is not a number", "send numbers"
        ) from error


def _require_sound(rows: pl.DataFrame, config: DatasetConfig) -> None:
    remedy = "see the route's example at /docs"
    if rows.select(pl.any_horizontal(pl.col("series", "time").is_null())).to_series().any():
        raise DataError("ingest.null_key", "a row has no series or no timestamp", remedy)
    wrong = rows.select(pl.any_horizontal(pl.col(list(config.channels)).is_infinite())).to_series().arg_true()
    if len(wrong):
        raise DataError("history.not_finite", f"row {wrong[0]} has a value that is not finite", remedy)
    if rows.select(pl.struct("series", "time").is_duplicated().any()).item():
        raise DataError("history.repeated", "two rows have the same series and time", remedy)


_FACTS: Mapping[str, str] = {
    "forecast.malformed_time": "a row has an invalid timestamp",
    "history.off_grid": "the timestamps of the rows are not on the data set's grid",
}
"""Facts for errors whose own sentences would repeat what was sent."""


def _csv(body: bytes) -> pl.DataFrame:
    try:
        return pl.read_csv(io.BytesIO(body), infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        raise DataError("source.malformed", "the body is not CSV", "send a header and rows") from error


def _frame(columns: Mapping[str, list[Any]]) -> pl.DataFrame:
    try:
        return pl.DataFrame(columns)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise _malformed() from error


def _malformed() -> DataError:
    return DataError(
        "invocation.malformed", "the rows are not a table with one type per column", "see the example at /docs"
    )
