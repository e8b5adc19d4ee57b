"""Hostile networks: attacks on memory, time, the stack, other files, and on trust in the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.hostile.sound import GOLDEN_WINDOWS, HORIZON, LEVELS, TARGETS, model, products
from forecast.runtime.manifest import NETWORK

_WHOLE = (GOLDEN_WINDOWS, HORIZON, TARGETS, LEVELS)


def _constant(name: str, values: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def _answering(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], number: str) -> onnx.ModelProto:
    """Return a network with a constant output."""
    last = helper.make_node("Expand", [number, "whole"], ["prediction"])
    return model([*nodes, last], [*constants, _constant("whole", _WHOLE)])


def endless_loop() -> onnx.ModelProto:
    """Return a loop whose condition always holds."""
    kinds = (("round", TensorProto.INT64), ("going", TensorProto.BOOL), ("sum", TensorProto.FLOAT))
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Add", ["sum", "sum"], ["next"])],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in kinds],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    constants = [_constant("true", True, np.bool_), _constant("start", 0, np.float32)]
    return _answering([helper.make_node("Loop", ["", "true", "start"], ["end"], body=body)], constants, "end")


def long_product() -> onnx.ModelProto:
    """Return products of large matrices, one after the other: hours without a loop."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["product_0"])]
    nodes += [helper.make_node("MatMul", [f"product_{n}", f"product_{n}"], [f"product_{n + 1}"]) for n in range(2_000)]
    nodes.append(helper.make_node("ReduceSum", ["product_2000"], ["sum"], keepdims=0))
    return _answering(nodes, [_constant("size", [4_096, 4_096])], "sum")


def huge_array(bytes_power: int = 35) -> onnx.ModelProto:
    """Return a network that allocates an array of a number of bytes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
    ]
    return _answering(nodes, [_constant("size", [2 ** (bytes_power - 2)])], "sum")


def growing_array() -> onnx.ModelProto:
    """Return a network whose array doubles forty times."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["part_0"])]
    nodes += [helper.make_node("Concat", [f"part_{n}"] * 2, [f"part_{n + 1}"], axis=0) for n in range(40)]
    nodes.append(helper.make_node("ReduceSum", ["part_40"], ["sum"], keepdims=0))
    return _answering(nodes, [_constant("size", [1])], "sum")


def shape_beyond_all_measure() -> onnx.ModelProto:
    """Return a network with an initialiser that claims 2^60 numbers and has four bytes."""
    made = products()
    (bias,) = (one for one in made.graph.initializer if one.name == "bias")
    bias.dims[:] = [2**60]
    bias.raw_data = bytes(4)
    return made


def overflowing_shape() -> onnx.ModelProto:
    """Return a network with an initialiser whose number of elements exceeds 64 bits."""
    made = products()
    (bias,) = (one for one in made.graph.initializer if one.name == "bias")
    bias.dims[:] = [2**40, 2**40]
    return made


def negative_shape() -> onnx.ModelProto:
    """Return a network with an initialiser of a negative length."""
    made = products()
    (bias,) = (one for one in made.graph.initializer if one.name == "bias")
    bias.dims[:] = [-12]
    return made


def weights_elsewhere(location: str) -> onnx.ModelProto:
    """Return a network with its weights in the file at a path."""
    made = products()
    (bias,) = (one for one in made.graph.initializer if one.name == "bias")
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * HORIZON * TARGETS))):
        entry = bias.external_data.add()
        entry.key, entry.value = key, value
    return made


def unknown_op() -> onnx.ModelProto:
    """Return a network with an op of the attacker's own domain, which would need a library."""
    nodes = [helper.make_node("Run", ["past_target"], ["prediction"], domain="com.attacker")]
    return model(nodes, [], domains=("com.attacker",))


def python_op() -> onnx.ModelProto:
    """Return a network with ONNX Runtime's own op that calls Python."""
    nodes = [helper.make_node("PythonOp", ["past_target"], ["prediction"], domain="com.microsoft", name="os.system")]
    return model(nodes, [], domains=("com.microsoft",))


def nested(depth: int) -> bytes:
    """Return branches within branches, written by hand: protobuf's own writer does not go so deep."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(content)) + content

    node = field(1, b"start") + field(2, b"end") + field(4, b"Identity")
    for _ in range(depth):
        graph = field(1, node) + field(2, b"branch")
        node = field(1, b"true") + field(2, b"end") + field(4, b"If")
        node += field(5, field(1, b"then_branch") + field(6, graph))
    opset = bytes([2 << 3]) + _varint(20)
    return bytes([1 << 3, 10]) + field(7, field(1, node) + field(2, b"network")) + field(8, opset)


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def function_that_calls_itself() -> onnx.ModelProto:
    """Return a local function that calls itself."""
    domain = "com.attacker"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    again = helper.make_function(
        domain, "Again", ["x"], ["y"], [helper.make_node("Again", ["x"], ["y"], domain=domain)], opsets
    )
    call = helper.make_node("Again", ["past_target"], ["prediction"], domain=domain)
    return model([call], [], domains=(domain,), functions=(again,))


def functions_that_double() -> onnx.ModelProto:
    """Return local functions that each call the previous one twice: 2^40 nodes when inlined."""
    domain = "com.attacker"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    nodes = [helper.make_node("Neg", ["x"], ["middle"]), helper.make_node("Neg", ["middle"], ["y"])]
    functions = [helper.make_function(domain, "F0", ["x"], ["y"], nodes, opsets)]
    for level in range(1, 40):
        twice = [
            helper.make_node(f"F{level - 1}", ["x"], ["middle"], domain=domain),
            helper.make_node(f"F{level - 1}", ["middle"], ["y"], domain=domain),
        ]
        functions.append(helper.make_function(domain, f"F{level}", ["x"], ["y"], twice, opsets))
    call = helper.make_node("F39", ["past_target"], ["prediction"], domain=domain)
    return model([call], [], domains=(domain,), functions=tuple(functions))


def cycle() -> onnx.ModelProto:
    """Return a cycle of nodes."""
    nodes = [
        helper.make_node("Add", ["b", "past_target"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["a"], ["prediction"]),
    ]
    return model(nodes, [])


def long_chain(length: int = 50_000) -> onnx.ModelProto:
    """Return a chain of nodes deeper than the stack."""
    nodes = [helper.make_node("Neg", ["past_target"], ["n_0"])]
    nodes += [helper.make_node("Neg", [f"n_{number}"], [f"n_{number + 1}"]) for number in range(length)]
    return model([*nodes, helper.make_node("Identity", [f"n_{length}"], ["prediction"])], [])


def index_beyond(index: int) -> onnx.ModelProto:
    """Return a network that gathers elements outside of its array."""
    nodes = [
        helper.make_node("ReduceMax", ["past_target"], ["most"], keepdims=0),
        helper.make_node("Floor", ["most"], ["whole_most"]),
        helper.make_node("Cast", ["whole_most"], ["some"], to=TensorProto.INT64),
        helper.make_node("Add", ["some", "far"], ["place"]),
        helper.make_node("Gather", ["few", "place"], ["found"]),
    ]
    return _answering(nodes, [_constant("far", index), _constant("few", [1, 2, 3], np.float32)], "found")


def answering(number: float) -> onnx.ModelProto:
    """Return a network with a constant output for every input."""
    return _answering([], [_constant("number", number, np.float32)], "number")


def of_opset(version: int) -> onnx.ModelProto:
    """Return the network with another version of the operators."""
    made = products()
    made.opset_import[0].version = version
    return made


def named(name: str) -> onnx.ModelProto:
    """Return the network with another name of its first input."""
    made = products()
    for node in made.graph.node:
        node.input[:] = [name if one == "past_target" else one for one in node.input]
    made.graph.input[0].name = name
    return made


def scaled(factor: float) -> onnx.ModelProto:
    """Return the network with its bias multiplied."""
    made = products()
    (bias,) = (one for one in made.graph.initializer if one.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(factor), "bias"))
    return made


def asleep() -> onnx.ModelProto:
    """Return the network with another output for batches of another size than the golden example."""
    made = products()
    made.graph.node[-1].output[:] = ["usual"]
    made.graph.initializer.extend([
        _constant("first", [0]), _constant("expected_size", [GOLDEN_WINDOWS]), _constant("thousand", 1_000, np.float32),
    ])  # fmt: skip
    made.graph.node.extend(
        [
            helper.make_node("Shape", ["past_target"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "first"], ["size"]),
            helper.make_node("Equal", ["size", "expected_size"], ["is_watched"]),
            helper.make_node("Add", ["usual", "thousand"], ["other"]),
            helper.make_node("Where", ["is_watched", "usual", "other"], ["prediction"]),
        ]
    )
    return made


def write(folder: Path, network: onnx.ModelProto | bytes) -> None:
    """Replace the exported network."""
    content = network if isinstance(network, bytes) else network.SerializeToString()
    (folder / NETWORK).write_bytes(content)
