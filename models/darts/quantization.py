"""8-bit weights for exported networks, by ONNX Runtime's dynamic quantisation."""

import logging
from pathlib import Path
from typing import Final

import onnx
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from onnxruntime.quantization import QuantType, quantize_dynamic

_LOG = logging.getLogger(__name__)
_PRODUCTS: Final = ("MatMul", "Gemm")
"""Operations to quantise. Convolutions are not: on a CPU ONNX Runtime computes them slower in integers."""
_MATRIX: Final = 2
"""Dimensions of weights to quantise: a stack of matrices cannot have one scale per column."""


def quantize(network: Path, path: Path) -> bool:
    """Write `network` to `path` with its weight matrices in int8.

    Returns False if it has no such matrix, or if the quantiser fails, which is logged. Each column of a matrix has its
    own scale. Inputs are quantised at run time, with one scale per tensor, *the whole batch*: run one window at a time,
    or a forecast depends on the other windows of its batch. Weights have 7 bits: with 8, processors without 8-bit dot
    products overflow. Equal networks give equal bytes.
    """
    proto = onnx.load(network)
    sizes = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    weighted = {
        node.name: sizes[node.input[1]]
        for node in proto.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in sizes
    }
    if _MATRIX not in weighted.values():
        return False
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # silences the advice to preprocess the file, which torch's exporter has done
    try:
        quantize_dynamic(
            str(network), str(path), op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=[name for name, size in weighted.items() if size != _MATRIX],
            weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
        )  # fmt: skip
    except (InferenceError, ValidationError, ValueError, RuntimeError) as error:  # then float32 serves
        root.setLevel(level)
        _LOG.warning("%s stays in float32: %s", network.name, error)
        return False
    finally:
        root.setLevel(level)
    written = onnx.load(path)
    del written.metadata_props[:]  # added by the quantiser
    written.metadata_props.extend(proto.metadata_props)
    path.write_bytes(written.SerializeToString(deterministic=True))
    return True
