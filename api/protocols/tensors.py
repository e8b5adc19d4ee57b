"""Tensors of the Open Inference Protocol: in JSON, or as bytes after the JSON (the binary tensor extension)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from api.requests.json_body import parse
from forecast.errors import DataError

Tensor = np.ndarray[Any, np.dtype[Any]]

_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "FP64": np.dtype("<f8"), "FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "INT64": np.dtype("<i8"),
        "INT32": np.dtype("<i4"), "INT16": np.dtype("<i2"), "INT8": np.dtype("i1"),
    }
)  # fmt: skip
_MOST_ELEMENTS = 8 * 2**20


class _Part(BaseModel):
    # Clients also send members and parameters for other servers.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    parameters: dict[str, Any] = {}


class InputTensor(_Part):
    """An input tensor."""

    name: str = Field(max_length=200)
    shape: list[int] = Field(max_length=8)
    datatype: str = Field(max_length=20)
    data: list[Any] | None = Field(default=None, description="Flat or nested; absent if the data follow as bytes.")


class OutputTensor(_Part):
    """A requested output tensor."""

    name: str = Field(max_length=200)


class InferRequest(_Part):
    """Windows to forecast: ``series``, ``start``, ``targets``, and ``past`` and ``future`` if the model has them."""

    id: str | None = Field(default=None, max_length=200)
    inputs: list[InputTensor] = Field(max_length=20)
    outputs: list[OutputTensor] | None = Field(default=None, max_length=20)


def read_tensors(body: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, Tensor]]:
    """Return a request and its tensors; ``BYTES`` become arrays of strings.

    Raises ``tensor.header``, ``tensor.shape``, ``tensor.datatype``, ``tensor.malformed``, ``tensor.size`` and what
    :func:`~api.requests.json_body.parse` raises.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and int(header_length[:12]) <= len(body)):
            raise DataError(
                "tensor.header",
                "Inference-Header-Content-Length is not the length of the JSON",
                "send its length in bytes",
            )
        length = int(header_length[:12])
    sent = parse(body[:length], InferRequest)
    rest, tensors = memoryview(body)[length:], {}
    for number, tensor in enumerate(sent.inputs):
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            tensors[tensor.name] = _of_json(tensor, f"inputs[{number}]")
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise DataError("tensor.size", f"inputs[{number}] has fewer bytes than binary_data_size", "send all bytes")
        tensors[tensor.name] = _of_bytes(tensor, rest[:size], f"inputs[{number}]")
        rest = rest[size:]
    if len(rest):
        raise DataError("tensor.size", "the body has bytes after the last tensor", "declare them by binary_data_size")
    return sent, tensors


def written(sent: InferRequest, head: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> tuple[bytes, int | None]:
    """Return the body with the requested outputs, and the length of its JSON if bytes follow it.

    Raises ``tensor.unknown``.
    """
    wanted = sent.outputs or [OutputTensor(name=name) for name in outputs]
    usual = bool(sent.parameters.get("binary_data_output", False))
    entries, binary = [], []
    for one in wanted:
        if one.name not in outputs:
            raise DataError(
                "tensor.unknown", "the model does not have a requested output", f"request {' or '.join(outputs)}"
            )
        values = np.ascontiguousarray(outputs[one.name], dtype="<f8")
        entry: dict[str, Any] = {"name": one.name, "datatype": "FP64", "shape": list(values.shape)}
        if one.parameters.get("binary_data", usual):
            binary.append(values.tobytes())
            entry["parameters"] = {"binary_data_size": values.nbytes}
        else:
            entry["data"] = values.reshape(-1).tolist()
        entries.append(entry)
    document = to_json({key: value for key, value in head.items() if value is not None} | {"outputs": entries})
    return (document + b"".join(binary), len(document)) if binary else (document, None)


def _elements(tensor: InputTensor, place: str) -> int:
    count = math.prod(tensor.shape)
    if any(size < 0 for size in tensor.shape) or count > _MOST_ELEMENTS:
        raise DataError("tensor.shape", f"{place} has an invalid shape", f"send at most {_MOST_ELEMENTS} elements")
    if tensor.datatype not in {"BYTES", *_TYPES}:
        raise DataError("tensor.datatype", f"{place} has an unsupported datatype", "send FP64, FP32 or BYTES")
    return count


def _of_json(tensor: InputTensor, place: str) -> Tensor:
    count = _elements(tensor, place)
    if tensor.data is None:
        raise DataError("tensor.malformed", f"{place} has neither data nor binary_data_size", "send one of them")
    flat = list(tensor.data)
    while flat and all(isinstance(item, list) for item in flat):
        flat = [inner for item in flat for inner in item]
    if len(flat) != count:
        raise DataError(
            "tensor.shape", f"the number of elements of {place} does not match its shape", "send all elements"
        )
    if tensor.datatype == "BYTES":
        if not all(isinstance(item, str) for item in flat):
            raise DataError("tensor.malformed", f"{place} is not an array of strings", "send strings")
        return np.asarray(flat, dtype=object).reshape(tensor.shape)
    for at, item in enumerate(flat):
        if type(item) not in {int, float} or not -1.8e308 < item < 1.8e308:
            raise DataError("tensor.malformed", f"{place}.data[{at}] is not a finite number", "send finite numbers")
    return np.asarray(flat, dtype=np.float64).reshape(tensor.shape)


def _of_bytes(tensor: InputTensor, data: memoryview, place: str) -> Tensor:
    count = _elements(tensor, place)
    if tensor.datatype == "BYTES":
        return np.asarray(_texts(data, count, place), dtype=object).reshape(tensor.shape)
    kind = _TYPES[tensor.datatype]
    if len(data) != count * kind.itemsize:
        raise DataError("tensor.size", f"the number of bytes of {place} does not match its shape", "send all bytes")
    return np.frombuffer(data, dtype=kind).reshape(tensor.shape)


def _texts(data: memoryview, count: int, place: str) -> list[str]:
    """Read strings, each after its length in four bytes."""
    texts: list[str] = []
    try:
        while len(data) and len(texts) < count:
            (length,) = struct.unpack_from("<I", data)
            if length > len(data) - 4:
                break
            texts.append(bytes(data[4 : 4 + length]).decode("utf-8"))
            data = data[4 + length :]
    except (struct.error, UnicodeDecodeError):
        texts = []
    if len(texts) != count or len(data):
        raise DataError(
            "tensor.malformed", f"the number of strings of {place} does not match its shape", "send length and UTF-8"
        )
    return texts
