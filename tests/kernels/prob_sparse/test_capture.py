"""The op inside captured graphs: registered-op checks, torch.compile, torch.export, ONNX."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from kernels.agreement import relative_error
from kernels.prob_sparse import prob_sparse_attention


def qkv(length: int = 40, batch: int = 2, heads: int = 3, size: int = 12, seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, heads, length, size, generator=draw) for _ in range(3))


class Attention(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return prob_sparse_attention(query, key, value, **self.options)


@pytest.mark.parametrize("causal", [False, True])
def test_the_registered_op_keeps_torchs_contract(causal: bool) -> None:
    tensors = [t.requires_grad_() for t in qkv(length=9, batch=1, heads=2, size=4)]
    op = torch.ops.forecast_kernels.prob_sparse_attention.default
    torch.library.opcheck(op, (*tensors, torch.tensor([0, 3, 5]), 3, causal, 9))


@pytest.mark.parametrize("causal", [False, True])
def test_a_compiled_call_has_no_graph_break_and_the_same_results(causal: bool) -> None:
    module = Attention(causal=causal)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    found, expected = ([t.clone().requires_grad_() for t in qkv()] for _ in range(2))
    outputs = compiled(*found), module(*expected)
    for leaves, out in zip((found, expected), outputs, strict=True):
        out.square().sum().backward()
        leaves.append(out)
    assert torch.equal(found.pop(), expected.pop())
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("sampling", ["shared", "independent"])
def test_a_compiled_call_takes_a_new_seed_without_compiling_again(sampling: str) -> None:
    def call(query: Tensor, key: Tensor, value: Tensor, seed: Tensor) -> Tensor:
        return prob_sparse_attention(query, key, value, sampling=sampling, seed=seed)

    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for seed in (3, 2**40):
        expected = prob_sparse_attention(*qkv(), sampling=sampling, seed=seed)
        assert torch.equal(compiled(*qkv(), torch.tensor(seed)), expected)
    assert len(graphs) == 1
    # One node draws the keys: Inductor inlines the ten rounds of Philox into each other and never ends.
    assert sum("draw_keys" in str(node.target) for node in graphs[0].graph.nodes) == 1


def exported(module: torch.nn.Module) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(module, qkv(), dynamic_shapes=({0: batch},) * 3)


def test_an_exported_program_holds_only_torchs_own_operations() -> None:
    program = exported(Attention(sampling="independent"))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [target for target in targets if "forecast_kernels" in target]
    other = qkv(batch=5, seed=1)
    assert relative_error(program.module()(*other), prob_sparse_attention(*other, sampling="independent")) < 1e-6


class BothKinds(torch.nn.Module):
    """Two calls in one graph, as exporting twice takes twice as long."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        other = prob_sparse_attention(query, key, value, causal=True, sampling="independent", seed=3)
        return prob_sparse_attention(query, key, value), other


def test_onnx_runtime_draws_the_same_keys_and_gives_the_same_output_at_any_batch(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, not ours to mend
        program = torch.onnx.export(exported(BothKinds()), dynamo=True, verbose=False)
    path = tmp_path / "attention.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tied = (torch.zeros(1, 3, 40, 12), *qkv(batch=1)[1:])
    for tensors in (qkv(batch=5, seed=1), qkv(batch=1, seed=2), tied):
        feeds = {given.name: t.numpy() for given, t in zip(session.get_inputs(), tensors, strict=True)}
        for found, expected in zip(session.run(None, feeds), BothKinds()(*tensors), strict=True):
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
