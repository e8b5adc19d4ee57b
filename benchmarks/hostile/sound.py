"""A sound model folder, from which attacks start: a network of matrix products, with all kinds of inputs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forecast.panel import Array
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import GOLDEN, MANIFEST, NETWORK, Manifest, store
from forecast.runtime.model import ServedModel, session
from forecast.runtime.scaler import Scaler

SERIES = ("east", "west")
LOOKBACK, HORIZON, TARGETS, PAST, FUTURE, LEVELS = 24, 6, 2, 1, 3, 3
SHAPES: Mapping[str, tuple[int, int]] = {
    "past_target": (LOOKBACK, TARGETS),
    "past_covariates": (LOOKBACK, PAST),
    "historic_future_covariates": (LOOKBACK, FUTURE),
    "future_covariates": (HORIZON, FUTURE),
}
START = datetime(2024, 1, 1, tzinfo=UTC)
_OPSET, _IR = 20, 10
GOLDEN_WINDOWS = 3


def store_sound(folder: Path) -> Manifest:
    """Store the model as training does."""
    about: dict[str, Any] = {
        "dataset": "tiny",
        "model_name": "products",
        "model_version": folder.name,
        "trained_at": START,
        "lookback": LOOKBACK,
        "horizon": HORIZON,
        "step_seconds": 3600.0,
        "targets": ("load", "price"),
        "past": ("wind",),
        "future": ("hour_sin", "hour_cos", "weekend"),
        "quantiles": (0.1, 0.5, 0.9),
        "lower": (0.0, None),
        "upper": (None, None),
        "scaler": Scaler(
            targets=dict.fromkeys(SERIES, ((40.0,) * TARGETS, (10.0,) * TARGETS)),
            past=dict.fromkeys(SERIES, ((5.0,) * PAST, (2.0,) * PAST)),
        ),
        "calibration": Calibration.none(TARGETS, LEVELS, HORIZON),
        "data_version": 0,
        "data_digest": "",
        "fitted_until": START,
    }
    with tempfile.TemporaryDirectory() as scratch:
        network = Path(scratch) / NETWORK
        network.write_bytes(products().SerializeToString())
        raw = ServedModel(Manifest(**about, network_digest="", golden_digest=""), session(network, threads=1))
        targets, past, future = windows(GOLDEN_WINDOWS, seed=1)
        series = [SERIES[number % len(SERIES)] for number in range(GOLDEN_WINDOWS)]
        golden = {"targets": targets, "past": past, "future": future, "series": np.asarray(series)}
        return store(folder, network, golden | {"expected": raw.scaled_quantiles(targets, past, future, series)}, about)


def windows(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Return random windows in original units, the input of ``ServedModel.predict``."""
    random = np.random.default_rng(seed)
    return (
        random.normal(40, 10, (count, LOOKBACK, TARGETS)),
        random.normal(5, 2, (count, LOOKBACK, PAST)),
        random.uniform(-1, 1, (count, LOOKBACK + HORIZON, FUTURE)),
    )


def products() -> onnx.ModelProto:
    """Return the network: each input flattened and multiplied, their sum, and a band around it."""
    random = np.random.default_rng(0)
    width = HORIZON * TARGETS
    tensors = {
        "flat": np.asarray([0, -1]),
        "whole": np.asarray([0, HORIZON, TARGETS, 1]),
        "bias": random.normal(0, 0.1, width).astype(np.float32),
        "band": np.asarray([-1, 0, 1], np.float32),
    }
    nodes = []
    for name, (steps, channels) in SHAPES.items():
        tensors[f"{name}_weight"] = random.normal(0, 0.1, (steps * channels, width)).astype(np.float32)
        nodes += [
            helper.make_node("Reshape", [name, "flat"], [f"{name}_flat"]),
            helper.make_node("MatMul", [f"{name}_flat", f"{name}_weight"], [f"{name}_part"]),
        ]
    nodes += [
        helper.make_node("Sum", [*(f"{name}_part" for name in SHAPES), "bias"], ["sum"]),
        helper.make_node("Reshape", ["sum", "whole"], ["middle"]),
        helper.make_node("Add", ["middle", "band"], ["prediction"]),
    ]
    return model(nodes, [numpy_helper.from_array(values, name) for name, values in tensors.items()])


def model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], *, shape: tuple[Any, ...] | None = None,
    opset: int = _OPSET, domains: tuple[str, ...] = (), functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:  # fmt: skip
    """Build a network of nodes with the inputs and the output of exported models."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("B", *sizes)) for name, sizes in SHAPES.items()]
    output = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, shape or ("B", HORIZON, TARGETS, LEVELS))
    graph = helper.make_graph(nodes, "network", inputs, [output], constants)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR, functions=list(functions))


def sealed(folder: Path, **fields: Any) -> None:
    """Rewrite the manifest with the current digests of the files, and with other fields."""
    message = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, field in ((NETWORK, "network_digest"), (GOLDEN, "golden_digest")):
        if (folder / name).is_file() and (folder / name).stat().st_size < 2**30:
            message[field] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(message | fields), encoding="utf-8")
