"""An exported network with 8-bit weights: ONNX Runtime's dynamic quantisation, for any network of the catalogue."""

import logging
from pathlib import Path
from typing import Final

import onnx
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from onnxruntime.quantization import QuantType, quantize_dynamic

_LOG = logging.getLogger(__name__)
_PRODUCTS: Final = ("MatMul", "Gemm")
"""Operations that are quantised. Not convolutions: ONNX Runtime's are slower in integers on a CPU."""
_MATRIX: Final = 2
"""Dimensions of weights that are quantised: a stack of matrices has no integer form with a scale per column."""


def quantize(network: Path, path: Path) -> bool:
    """Write `network` to `path` with the matrices that inputs are multiplied by as int8.

    False if it has none, or if the quantiser cannot do it, which is logged. Each column of a matrix has a scale of its
    own. Inputs are quantised while it runs, by one scale over all of a tensor, *the whole batch*: run one window at a
    time, or a window's forecast depends on those beside it. Weights have 7 bits, or processors without 8-bit sums of
    products would overflow where others do not. Equal networks give equal bytes.
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
    root.setLevel(logging.ERROR)  # advice to preprocess the file, which torch's exporter has done
    try:
        quantize_dynamic(
            str(network), str(path), op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=[name for name, size in weighted.items() if size != _MATRIX],
            weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
        )  # fmt: skip
    except (InferenceError, ValidationError, ValueError, RuntimeError) as error:  # the network serves in float32
        root.setLevel(level)
        _LOG.warning("%s stays in float32: %s", network.name, error)
        return False
    finally:
        root.setLevel(level)
    written = onnx.load(path)
    del written.metadata_props[:]  # the quantiser's mark
    written.metadata_props.extend(proto.metadata_props)
    path.write_bytes(written.SerializeToString(deterministic=True))
    return True
