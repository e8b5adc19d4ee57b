"""The network is the paper's: an independent transcription of its equations gives the same numbers and gradients."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput
from torch import Tensor
from torch.nn import functional

from models import ModelError, export_onnx
from models.layers.state_space import BidirectionalMamba
from models.networks.s_mamba import SMamba, SMambaConfig, SMambaModel
from models.shape import WindowShape

Weights = dict[str, Tensor]
SHAPE = WindowShape(lookback=15, horizon=6, targets=3, past=2, future=4, static=2, outputs=3)
both_embeddings = pytest.mark.parametrize("shared_embedding", [True, False])


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def mamba(weights: Weights, name: str, way: int, tokens: Tensor) -> Tensor:
    """One Mamba block (arXiv 2312.00752, algorithm 2 and figure 3), token after token."""
    taps = weights[f"{name}.taps"][:, way, 0, 0]  # [K, E]
    span, inner = taps.shape
    decay = -torch.exp(weights[f"{name}.log_decay"][way])  # [E, N]
    states = decay.shape[1]
    project_x, project_gate = weights[f"{name}.project_in.weight"].reshape(2, 2, inner, -1)[:, way]  # [E, D]
    x, gate = tokens @ project_x.T, tokens @ project_gate.T  # [B, V, E]
    memory = torch.zeros(len(tokens), inner, states, dtype=tokens.dtype)  # [B, E, N]
    rows = []
    for t in range(tokens.shape[1]):
        convolved = weights[f"{name}.taps_bias"][way, 0, 0] + sum(
            taps[lag] * x[:, t - lag] for lag in range(min(span, t + 1))
        )
        u = silu(convolved)  # [B, E]
        coefficients = u @ weights[f"{name}.project_coefficients"][way]
        rank = coefficients.shape[1] - 2 * states
        low_rank, drive, read = coefficients[:, :rank], coefficients[:, rank:-states], coefficients[:, -states:]
        delta = torch.log1p(
            torch.exp(low_rank @ weights[f"{name}.project_delta"][way] + weights[f"{name}.delta_bias"][way])
        )
        memory = torch.exp(delta[:, :, None] * decay) * memory + (delta * u)[:, :, None] * drive[:, None]
        y = (memory * read[:, None]).sum(-1) + weights[f"{name}.skip"][way] * u
        rows.append((y * silu(gate[:, t])) @ weights[f"{name}.project_out"][way])
    return torch.stack(rows, dim=1)


def transcription(
    weights: Weights,
    config: SMambaConfig,
    past: Tensor,
    past_covariates: Tensor,
    historic: Tensor,
    future: Tensor,
    static: Tensor,
) -> Tensor:
    """S-Mamba, section 4: embed variates, scan them both ways, feed forward, project."""
    if config.shared_embedding:
        columns = [past, past_covariates, historic]
        tokens = torch.cat([linear(weights, "tokens.targets.project", part.mT) for part in columns], dim=1)
    else:
        tokens = torch.cat(
            [
                linear(weights, "tokens.targets.project", past.mT) + linear(weights, "tokens.static", static),
                linear(weights, "tokens.past.project", past_covariates.mT),
                linear(weights, "tokens.future.project", torch.cat([historic, future], dim=1).mT),
            ],
            dim=1,
        )
    for layer in range(config.layers):
        name = f"encoder.{layer}"
        forward = mamba(weights, f"{name}.mamba", 0, tokens)
        backward = mamba(weights, f"{name}.mamba", 1, tokens.flip(1)).flip(1)
        tokens = layer_norm(weights, f"{name}.norm_mamba", tokens + forward + backward)
        hidden = gelu(linear(weights, f"{name}.feed_forward.0", tokens))
        tokens = layer_norm(
            weights, f"{name}.norm_feed_forward", tokens + linear(weights, f"{name}.feed_forward.3", hidden)
        )
    encoded = layer_norm(weights, "norm", tokens)[:, : SHAPE.targets]
    outputs = linear(weights, "head", encoded).reshape(-1, SHAPE.targets, SHAPE.horizon, SHAPE.outputs)
    return outputs.permute(0, 2, 1, 3)


def disturbed(module: torch.nn.Module) -> Any:
    """In float64, away from initial values that would hide a mistake (norms and skips start as the identity)."""
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return module.eval()


def block(**changes: int) -> BidirectionalMamba:
    torch.manual_seed(0)
    made: BidirectionalMamba = disturbed(
        BidirectionalMamba(**{"width": 6, "states": 2, "convolution": 2, "expansion": 1, **changes})
    )
    return made


@pytest.fixture
def windows(window: Callable[..., Tensor]) -> list[Tensor]:
    shape = SHAPE
    return [
        window(4, shape.lookback, shape.targets, seed=1),
        window(4, shape.lookback, shape.past, seed=2),
        window(4, shape.lookback, shape.future, seed=3),
        window(4, shape.horizon, shape.future, seed=4),
        window(4, 1, shape.static, seed=5),
    ]


@both_embeddings
def test_the_network_and_its_gradients_equal_the_equations(
    windows: list[Tensor], window: Callable[..., Tensor], shared_embedding: bool
) -> None:
    config = SMambaConfig(
        width=18, feed_forward=20, states=3, convolution=3, expansion=2, shared_embedding=shared_embedding
    )
    torch.manual_seed(0)
    network = disturbed(SMamba(config, SHAPE))
    weights = dict(network.named_parameters())
    forecast, expected = network(*windows), transcription(weights, config, *windows)
    assert forecast.shape == (4, SHAPE.horizon, SHAPE.targets, SHAPE.outputs)
    assert (forecast - expected).abs().max() < 1e-9

    upstream = window(*forecast.shape, seed=6)
    found, wanted = (torch.autograd.grad(y, list(weights.values()), upstream) for y in (forecast, expected))
    for name, gradient, law in zip(weights, found, wanted, strict=True):
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, law, atol=1e-9, rtol=1e-9, msg=f"the gradient of {name}")


def test_the_gradients_of_a_block_are_those_of_its_output(window: Callable[..., Tensor]) -> None:
    mixing = block(width=3, states=2)
    names, weights = zip(*mixing.named_parameters(), strict=True)

    def mixed(tokens: Tensor, *values: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(mixing, dict(zip(names, values, strict=True)), (tokens,))
        return output

    assert torch.autograd.gradcheck(mixed, (window(2, 4, 3).requires_grad_(), *weights))


def test_swapping_the_two_ways_and_reversing_the_tokens_reverses_the_output(window: Callable[..., Tensor]) -> None:
    tokens = window(3, 7, 6)
    mixing = block()
    expected = mixing(tokens).flip(1)
    weights = mixing.state_dict()
    axes = {"taps": 1}
    for name, weight in weights.items():
        swapped = weight.view(2, 2, -1).flip(1) if name == "project_in.weight" else weight.flip(axes.get(name, 0))
        weights[name] = swapped.reshape(weight.shape)
    mixing.load_state_dict(weights)
    torch.testing.assert_close(mixing(tokens.flip(1)), expected, atol=1e-12, rtol=0)
    assert (mixing(tokens) - expected.flip(1)).abs().max() > 1e-3  # the two ways do differ


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("way", [0, 1])
def test_a_way_reads_the_tokens_behind_it_and_its_convolution_the_nearest(
    window: Callable[..., Tensor], way: int, remembers: bool
) -> None:
    mixing = block(convolution=3)
    with torch.no_grad():
        mixing.project_out[1 - way] = 0
        if not remembers:
            mixing.project_coefficients.zero_()  # nothing enters or leaves the state: only the convolution mixes
    tokens = window(2, 9, 6)
    changed = tokens.clone()
    changed[:, 4] += 1
    moved = (mixing(changed) - mixing(tokens)).abs().amax((0, 2)) > 0
    reached = range(4, 9 if remembers else 7) if way == 0 else range(0 if remembers else 2, 5)
    assert moved.nonzero().flatten().tolist() == list(reached)


def test_a_fresh_block_steps_between_a_thousandth_and_a_tenth_and_decays_by_whole_numbers() -> None:
    torch.manual_seed(0)
    mixing = BidirectionalMamba(width=256, states=3, convolution=2, expansion=1)
    steps = functional.softplus(mixing.delta_bias).log10()
    assert -3 - 1e-4 < steps.min() < -2.95
    assert -1.05 < steps.max() < -1 + 1e-4
    assert steps.mean().item() == pytest.approx(-2, abs=0.1)  # evenly on a log scale
    torch.testing.assert_close(mixing.log_decay.exp(), torch.tensor([1.0, 2.0, 3.0]).expand(2, 256, 3))


def test_one_variate_is_enough_even_for_a_longer_convolution(window: Callable[..., Tensor]) -> None:
    alone = WindowShape(lookback=15, horizon=6, targets=1)
    network = SMamba(SMambaConfig(width=8, feed_forward=8, convolution=4), alone).double()
    assert network(window(2, 15, 1)).shape == (2, 6, 1, 1)


def test_known_future_values_reach_the_forecast_by_default_only(windows: list[Tensor]) -> None:
    changed = [*windows[:3], windows[3] + 1, windows[4]]
    for shared_embedding in (False, True):
        config = SMambaConfig(width=16, shared_embedding=shared_embedding)
        network = SMamba(config, SHAPE).double().eval()
        assert torch.equal(network(*windows), network(*changed)) is shared_embedding


def test_static_covariates_per_channel_and_per_series_are_both_taken(
    windows: list[Tensor], window: Callable[..., Tensor]
) -> None:
    network = SMamba(SMambaConfig(width=16), SHAPE).double().eval()
    per_channel = network(*windows[:4], windows[4].expand(-1, SHAPE.targets, -1))
    torch.testing.assert_close(per_channel, network(*windows))
    assert not torch.equal(network(*windows[:4], window(4, SHAPE.targets, SHAPE.static, seed=9)), per_channel)


def test_the_order_of_covariates_matters_as_the_docstring_says(windows: list[Tensor]) -> None:
    torch.manual_seed(0)
    network = disturbed(SMamba(SMambaConfig(width=16), SHAPE))
    swapped = [windows[0], windows[1].flip(-1), *windows[2:]]
    assert (network(*swapped) - network(*windows)).abs().max() > 1e-4


SHAPED_BY: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "width": (24, "norm.weight", (24,)),
    "feed_forward": (24, "encoder.0.feed_forward.0.weight", (24, 16)),
    "layers": (3, "encoder.2.norm_mamba.weight", (16,)),
    "states": (5, "encoder.0.mamba.log_decay", (2, 16, 5)),
    "convolution": (4, "encoder.1.mamba.taps", (4, 2, 1, 1, 16)),
    "expansion": (3, "encoder.1.mamba.project_out", (2, 48, 16)),
}


@pytest.mark.parametrize("option", SHAPED_BY)
def test_every_size_shapes_the_weights(windows: list[Tensor], option: str) -> None:
    value, weight, shape = SHAPED_BY[option]
    base = SMambaConfig(width=16, feed_forward=16)
    network = SMamba(replace(base, **{option: value}), SHAPE).double()
    weights = network.state_dict()
    assert weights[weight].shape == shape
    assert {name: tensor.shape for name, tensor in weights.items()} != {
        name: tensor.shape for name, tensor in SMamba(base, SHAPE).state_dict().items()
    }
    assert network(*windows).isfinite().all()


def test_dropout_acts_in_training_only_and_no_option_is_left_untested(windows: list[Tensor]) -> None:
    network = SMamba(SMambaConfig(width=16, dropout=0.3), SHAPE).double()
    assert not torch.equal(network(*windows), network(*windows))
    network.eval()
    assert torch.equal(network(*windows), network(*windows))
    assert {field.name for field in fields(SMambaConfig)} == {*SHAPED_BY, "dropout", "shared_embedding"}


@pytest.mark.parametrize("option", [*SHAPED_BY, "dropout"])
def test_an_option_that_makes_no_network_is_refused_by_its_name(option: str) -> None:
    wrong: dict[str, Any] = {option: 1.0 if option == "dropout" else 0}
    with pytest.raises(ModelError, match=f"option '{option}' is") as caught:
        SMambaModel(24, 8, **wrong)
    assert caught.value.code == "model.option_out_of_range"


def test_mixed_precision_trains_and_stays_near_full_precision(windows: list[Tensor]) -> None:
    torch.manual_seed(0)
    network = SMamba(SMambaConfig(width=16, dropout=0.0), SHAPE)
    single = [part.float() for part in windows]
    exact = network(*single)
    with torch.autocast("cpu", torch.bfloat16):
        forecast = network(*single)
        forecast.square().mean().backward()
    assert (forecast - exact).abs().max() < 0.05
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_onnx_runtime_forecasts_as_torch_does_for_one_window_and_for_five(panel: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"preset": "faithful", "width": 16, "feed_forward": 16, "layers": 1, "n_epochs": 1}
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    model: Any = SMambaModel(26, 8, **options, random_state=1, pl_trainer_kwargs=trainer)
    model.fit(panel.series, past_covariates=panel.past_covariates, verbose=False)
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 5):
        generator = torch.Generator().manual_seed(batch)
        read = {node.name: torch.randn(batch, *node.shape[1:], generator=generator) for node in session.get_inputs()}
        with torch.no_grad():
            expected = model.model.eval()(PLModuleInput(**read)).prediction
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in read.items()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_the_faithful_preset_is_the_official_recipe() -> None:
    model = SMambaModel(96, 96, preset="faithful")
    assert model.network_options == {
        "width": 256,
        "feed_forward": 256,
        "layers": 2,
        "states": 2,
        "convolution": 2,
        "expansion": 1,
        "dropout": 0.1,
        "shared_embedding": True,
    }
    assert model.pl_module_params["optimizer_kwargs"]["lr"] == 7e-5
    assert (model.batch_size, model.n_epochs) == (32, 10)
