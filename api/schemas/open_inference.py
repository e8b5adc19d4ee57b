"""Metadata of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ServerMetadata(BaseModel):
    """Name, version and protocol extensions of the server."""

    name: str = "forecast-service"
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor; a size of -1 is variable."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str = "onnxruntime_onnx"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = Field(description="Channels, quantile levels, look-back, horizon.")
