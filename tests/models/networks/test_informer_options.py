"""Informer's options, what it refuses, and its exported form; `test_informer.py` holds the equations."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from models.darts.frame import Frame
from models.errors import ModelError
from models.layers.step_embedding import Distilling
from models.networks.informer import Informer, InformerConfig, InformerModel
from models.shape import WindowShape

SHAPE = WindowShape(lookback=27, horizon=6, targets=3, past=2, future=4, static=2, outputs=3)
SMALL: dict[str, Any] = {"width": 12, "feed_forward": 20, "heads": 3, "factor": 1}
PRESETS = {name: InformerConfig(**asdict(recipe.config)) for name, recipe in InformerModel.recipes.items()}
DEFAULT = replace(PRESETS["default"], **SMALL)
FAITHFUL = replace(PRESETS["faithful"], **SMALL)
both_presets = pytest.mark.parametrize("config", [DEFAULT, FAITHFUL], ids=["default", "faithful"])


def build(config: InformerConfig, shape: WindowShape = SHAPE) -> Informer:
    torch.manual_seed(0)
    network = Informer(config, shape).double().eval()
    torch.nn.init.normal_(network.head.weight)  # with a linear path it starts at zero, and would hide what is below it
    return network


@pytest.fixture
def windows(window: Callable[..., Tensor]) -> list[Tensor]:
    shape = SHAPE
    return [
        window(3, shape.lookback, shape.targets, seed=1) * 3 + 2,
        window(3, shape.lookback, shape.past, seed=2),
        window(3, shape.lookback, shape.future, seed=3),
        window(3, shape.horizon, shape.future, seed=4),
        window(3, 1, shape.static, seed=5),
    ]


@pytest.mark.parametrize("steps", [1, 2, 7, 96, 97])
def test_distilling_keeps_every_second_step(window: Callable[..., Tensor], steps: int) -> None:
    assert Distilling(4).double()(window(2, steps, 4)).shape == (2, math.ceil(steps / 2), 4)


def test_stacks_of_halving_inputs_give_equal_lengths(window: Callable[..., Tensor]) -> None:
    network = build(replace(DEFAULT, stacks=3, encoder_layers=3), replace(SHAPE, lookback=32))
    tokens = window(2, 32, DEFAULT.width)
    assert [stack(tokens[:, -(32 >> i) :]).shape[1] for i, stack in enumerate(network.stacks)] == [8, 8, 8]


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "full"},
        {"decoder_attention": "prob_sparse"},
        {"mix": True},
        {"factor": 2},
        {"sampling": "independent"},
        {"label_length": 4},
    ],
    ids=str,
)
def test_an_option_without_weights_changes_the_forecast(windows: list[Tensor], changes: dict[str, Any]) -> None:
    network = build(DEFAULT)
    changed = Informer(replace(DEFAULT, **changes), SHAPE).double().eval()
    changed.load_state_dict(network.state_dict())
    assert not torch.allclose(changed(*windows), network(*windows))


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"stacks": 2}, True),
        ({"distil": False}, False),
        ({"encoder_layers": 3}, True),
        ({"decoder_layers": 2}, True),
        ({"width": 24}, True),
        ({"feed_forward": 40}, True),
    ],
    ids=str,
)
def test_an_option_with_weights_changes_their_number(changes: dict[str, Any], more: bool) -> None:
    def count(config: InformerConfig) -> int:
        return sum(weight.numel() for weight in Informer(config, SHAPE).parameters())

    assert (count(replace(DEFAULT, **changes)) > count(DEFAULT)) is more


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_dropout_acts_while_training(windows: list[Tensor], option: str) -> None:
    still = replace(DEFAULT, attention="full", dropout=0.0, attention_dropout=0.0)
    for rate in (0.0, 0.4):
        changes: dict[str, Any] = {option: rate}
        network = build(replace(still, **changes)).train()
        assert torch.equal(network(*windows), network(*windows)) is (rate == 0)


@both_presets
def test_gradients_reach_every_parameter(windows: list[Tensor], config: InformerConfig) -> None:
    # In training the batch normalisation takes off whatever shift the layer before it adds.
    network = build(replace(config, stacks=2, decoder_layers=2)).eval()
    network(*windows).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert unreached == []


@both_presets
def test_every_input_reaches_the_forecast(windows: list[Tensor], config: InformerConfig) -> None:
    network = build(config)
    for i in range(len(windows)):
        changed = [tensor + 1 if k == i else tensor for k, tensor in enumerate(windows)]
        assert not torch.allclose(network(*changed), network(*windows))


def test_static_covariates_per_channel_and_per_series_are_both_taken(
    windows: list[Tensor], window: Callable[..., Tensor]
) -> None:
    network = build(DEFAULT)
    per_channel = network(*windows[:4], windows[4].expand(-1, SHAPE.targets, -1))
    torch.testing.assert_close(per_channel, network(*windows))
    assert not torch.allclose(network(*windows[:4], window(3, SHAPE.targets, SHAPE.static, seed=9)), per_channel)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:# The axis name. batch:UserWarning")
def test_onnx_runtime_agrees_on_stacks_and_the_faithful_decoder(windows: list[Tensor], tmp_path: Path) -> None:
    network = build(replace(FAITHFUL, stacks=2)).float()
    inputs = [tensor.float() for tensor in windows]
    names = ["past", "past_covariates", "historic", "future", "static"]
    path = tmp_path / "informer.onnx"
    torch.onnx.export(
        network,
        tuple(inputs),
        path,
        input_names=names,
        opset_version=20,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs),
    )
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 5):
        rows = [tensor[torch.arange(batch) % 3] * (1 + 0.1 * torch.arange(batch))[:, None, None] for tensor in inputs]
        with torch.no_grad():
            expected = network(*rows).numpy()
        (result,) = session.run(None, {name: row.numpy() for name, row in zip(names, rows, strict=True)})
        np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"width": 10, "heads": 4}, "model.width_not_divisible"),
        ({"label_length": 27}, "model.option_out_of_range"),
        ({"label_length": -1}, "model.option_out_of_range"),
        ({"encoder_layers": 6}, "model.lookback_too_short"),
        ({"stacks": 3}, "model.option_out_of_range"),
        ({"factor": 0}, "model.option_out_of_range"),
        ({"attention": "sparse"}, "model.option_out_of_range"),
        ({"decoder_attention": "full"}, "model.option_out_of_range"),
        ({"sampling": "random"}, "model.option_out_of_range"),
        ({"dropout": 1.0}, "model.option_out_of_range"),
    ],
    ids=str,
)
def test_what_makes_no_network_is_refused_by_name(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        InformerModel(26, 8, **changes)
    assert caught.value.code == code


def test_the_faithful_preset_is_the_official_recipe() -> None:
    model = InformerModel(96, 48, preset="faithful")
    expected = {
        "width": 512,
        "feed_forward": 2048,
        "heads": 8,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "factor": 5,
        "dropout": 0.05,
        "attention": "prob_sparse",
        "decoder_attention": "prob_sparse",
        "mix": True,
        "distil": True,
    }
    assert {name: model.network_options[name] for name in expected} == expected
    assert Informer(PRESETS["faithful"], replace(SHAPE, lookback=96)).start == 48
    assert model.pl_module_params["optimizer_kwargs"]["lr"] == 1e-4
    assert (model.batch_size, model.n_epochs) == (32, 6)
    assert model.recipes["faithful"].frame == Frame(scale_windows=False)
