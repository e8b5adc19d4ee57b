"""Open Inference Protocol v2 under ``/v2``, with binary tensors, for Triton's client and others.

A model is a data set, and its versions are model versions. Inputs are windows of history in original units; outputs are
forecasts.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.answers.on_demand import check_request, require_points
from api.auth.scopes import reads_own
from api.dependencies import ServiceDep, find_dataset, seen_datasets
from api.errors.client_errors import ErrorMemberRoute
from api.forecasts.selection import instant
from api.openapi.inline import inlined
from api.openapi.responses import problems
from api.protocols.tensors import InferRequest, Tensor, read_tensors, written
from api.requests.bodies import read_body
from api.requests.negotiation import JSON
from api.schemas.models import CHAMPION
from api.schemas.open_inference import ModelMetadata, ServerMetadata, TensorMetadata
from api.service import Service
from api.state.champions import Loaded
from forecast.errors import DataError
from forecast.installation import Dataset
from forecast.vocabulary import Horizon
from pipelines.forecasting.on_demand import from_arrays

_HEADER = "Inference-Header-Content-Length"
_OCTETS = "application/octet-stream"
_MOST_WINDOWS = 1_000

router = APIRouter(
    prefix="/v2", tags=["open inference protocol"], route_class=ErrorMemberRoute, dependencies=[reads_own]
)
ModelName = Annotated[str, Path(description="Name of a data set.")]
ModelVersion = Annotated[str, Path(description="Model version, or champion or previous.")]


@router.get("", summary="Server metadata")
async def server_metadata() -> ServerMetadata:
    """Return the server's version and protocol extensions."""
    version = importlib.metadata.version("forecast-service")
    return ServerMetadata(version=version, extensions=["binary_tensor_data", "model_versioning"])


@router.get("/health/live", summary="Liveness")
async def live() -> dict[str, bool]:
    """Answer 200 while the process is alive."""
    return {"live": True}


@router.get("/health/ready", summary="Readiness", responses=problems(503))
async def ready(service: ServiceDep) -> dict[str, bool]:
    """Answer 200 if the champion of every data set is loaded."""
    for dataset in seen_datasets(service):
        await service.champions.of(dataset.name)
    return {"ready": True}


@router.get("/models/{name}", summary="Model metadata", responses=problems(404, 503))
async def model_metadata(name: ModelName, service: ServiceDep) -> ModelMetadata:
    """Return the champion's tensors."""
    return _metadata(find_dataset(name, service), await service.champions.of(find_dataset(name, service).name))


@router.get("/models/{name}/versions/{version}", summary="Metadata of a version", responses=problems(404, 503))
async def version_metadata(name: ModelName, version: ModelVersion, service: ServiceDep) -> ModelMetadata:
    """Return a version's tensors."""
    dataset = find_dataset(name, service)
    return _metadata(dataset, await service.champions.of(dataset.name, version))


@router.get("/models/{name}/ready", summary="Readiness of a model", responses=problems(404, 503))
async def model_ready(name: ModelName, service: ServiceDep) -> dict[str, Any]:
    """Answer 200 if the data set's champion is loaded."""
    await service.champions.of(find_dataset(name, service).name)
    return {"name": name, "ready": True}


@router.get("/models/{name}/versions/{version}/ready", summary="Readiness of a version", responses=problems(404, 503))
async def version_ready(name: ModelName, version: ModelVersion, service: ServiceDep) -> dict[str, Any]:
    """Answer 200 if the version can be loaded."""
    await service.champions.of(find_dataset(name, service).name, version)
    return {"name": name, "version": version, "ready": True}


_BODY = {"requestBody": {"required": True, "content": {JSON: {"schema": inlined(InferRequest)}, _OCTETS: {}}}}


@router.post("/models/{name}/infer", summary="Infer", responses=problems(404, 408, 413, 422, 503), openapi_extra=_BODY)
async def infer(request: Request, name: ModelName, service: ServiceDep) -> Response:
    """Forecast windows with the champion."""
    return await _infer(request, name, CHAMPION, service)


@router.post(
    "/models/{name}/versions/{version}/infer", summary="Infer with a version",
    responses=problems(404, 408, 413, 422, 503), openapi_extra=_BODY,
)  # fmt: skip
async def infer_version(request: Request, name: ModelName, version: ModelVersion, service: ServiceDep) -> Response:
    """Forecast windows with a version."""
    return await _infer(request, name, version, service)


def _metadata(dataset: Dataset, loaded: Loaded) -> ModelMetadata:
    manifest, config = loaded.model.manifest, dataset.config
    inputs = [
        TensorMetadata(name="series", datatype="BYTES", shape=[-1]),
        TensorMetadata(name="start", datatype="BYTES", shape=[-1]),
        TensorMetadata(name="targets", datatype="FP64", shape=[-1, -1, len(config.targets)]),
    ]
    if config.past_covariates:
        inputs.append(TensorMetadata(name="past", datatype="FP64", shape=[-1, -1, len(config.past_covariates)]))
    if config.future_covariates:
        inputs.append(TensorMetadata(name="future", datatype="FP64", shape=[-1, -1, len(config.future_covariates)]))
    channels, levels = len(manifest.targets), len(manifest.quantiles)
    return ModelMetadata(
        name=dataset.name,
        versions=[manifest.model_version],
        inputs=inputs,
        outputs=[
            TensorMetadata(name="mean", datatype="FP64", shape=[-1, -1, channels]),
            TensorMetadata(name="quantiles", datatype="FP64", shape=[-1, -1, channels, levels]),
        ],
        parameters={
            "lookback": manifest.lookback,
            "horizon": manifest.horizon,
            "frequency": config.frequency,
            "series": list(manifest.scaler.targets),
            "targets": list(config.targets),
            "past": list(config.past_covariates),
            "future": list(config.future_covariates),
            "quantiles": list(manifest.quantiles),
        },
    )


async def _infer(request: Request, name: str, version: str, service: Service) -> Response:
    dataset = find_dataset(name, service)
    loaded = await service.champions.of(dataset.name, version)
    sent, tensors = read_tensors(await read_body(request), request.headers.get(_HEADER))
    asked_for = sent.parameters.get("horizon", loaded.model.manifest.horizon)
    if type(asked_for) is not int:
        raise DataError("horizon.not_a_number", "parameters.horizon is not a whole number", "send a whole number")
    steps = Horizon(asked_for).steps if 0 < asked_for < 10**9 else Horizon(0).steps
    mean, quantiles = await _forecast(tensors, steps, dataset, loaded, service)
    head = {"model_name": dataset.name, "model_version": loaded.champion.model_version, "id": sent.id}
    body, length = written(sent, head, {"mean": mean, "quantiles": quantiles})
    headers = {"Cache-Control": "no-store"}
    if length is None:
        return Response(body, media_type=JSON, headers=headers)
    return Response(body, media_type=_OCTETS, headers=headers | {_HEADER: str(length)})


async def _forecast(
    tensors: Mapping[str, Tensor], horizon: int, dataset: Dataset, loaded: Loaded, service: Service
) -> tuple[np.ndarray, np.ndarray]:
    config = dataset.config
    roles = {"targets": config.targets, "past": config.past_covariates, "future": config.future_covariates}
    for given in tensors:
        if given not in {"series", "start", *(role for role, channels in roles.items() if channels)}:
            raise DataError(
                "tensor.unknown", "the model does not have an input of the request", "see the model's metadata"
            )
    targets = _numbers(tensors, "targets", len(config.targets), 0)
    windows, rows = targets.shape[:2]
    if not 1 <= windows <= _MOST_WINDOWS:
        raise DataError("tensor.shape", f"a request must have 1 to {_MOST_WINDOWS} windows", "send several requests")
    require_points(windows * len(config.targets) * horizon)
    past = _numbers(tensors, "past", len(config.past_covariates), windows)
    future = _numbers(tensors, "future", len(config.future_covariates), windows)
    if past.shape[1] != rows and config.past_covariates:
        raise DataError(
            "tensor.shape", "past and targets differ in their number of rows", "send the same times of both"
        )
    names, starts = _texts(tensors, "series", windows), _texts(tensors, "start", windows)
    trained = loaded.model.manifest.scaler.targets
    panels = []
    for number in range(windows):
        start = instant(starts[number], "start")
        assert start is not None  # noqa: S101 - a text was given
        if names[number] not in trained:
            raise DataError(
                "history.unknown_series", f"the model was not trained on series[{number}]",
                "see the model's metadata",
            )  # fmt: skip
        own = (targets[number], past[number][:rows], future[number] if config.future_covariates else future[0, :rows])
        panels.append(from_arrays(start, names[number], *own, config, f"window {number}"))
    wanted = [check_request(panel, horizon, dataset, loaded, service) for panel in panels]
    made = await service.champions.forecast_all(loaded, [one.panel for one in wanted], horizon)
    return np.concatenate([one.mean for one in made]), np.concatenate([one.quantiles for one in made])


def _numbers(tensors: Mapping[str, Tensor], name: str, channels: int, windows: int) -> np.ndarray:
    """Return an input as [B, T, K] in double precision; an empty one for a role without channels."""
    if not channels:
        return np.empty((windows, 2**20, 0))
    values = _found(tensors, name)
    if values.dtype == object:
        raise DataError("tensor.datatype", f"{name} is not a tensor of numbers", "send FP64 or FP32")
    if values.ndim != 3 or values.shape[2] != channels or (windows and values.shape[0] != windows):
        raise DataError(
            "tensor.shape", f"the shape of {name} is not windows times rows times {channels} channels",
            "see the model's metadata",
        )  # fmt: skip
    return values.astype(np.float64)


def _texts(tensors: Mapping[str, Tensor], name: str, windows: int) -> list[str]:
    values = _found(tensors, name)
    if values.dtype != object or values.size != windows:
        raise DataError("tensor.shape", f"{name} is not one string per window", "send BYTES of that shape")
    return [str(text) for text in values.reshape(-1)]


def _found(tensors: Mapping[str, Tensor], name: str) -> np.ndarray:
    if name not in tensors:
        raise DataError("tensor.missing", f"the input {name} is missing", "see the model's metadata")
    return tensors[name]
