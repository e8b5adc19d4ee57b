"""Metadata of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class ServerMetadata(BaseModel):
    """The server."""

    name: str = "forecast-service"
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """One tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str = "onnxruntime_onnx"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = Field(description="Channels, quantile levels, look-back, horizon.")
