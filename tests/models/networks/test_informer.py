"""The network is the paper's: an independent transcription of its equations gives the same numbers."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.prob_sparse.sampling import draw_keys
from models.networks.informer import Informer, InformerConfig, InformerModel
from models.shape import WindowShape

Weights = dict[str, Tensor]
SHAPE = WindowShape(lookback=27, horizon=6, targets=3, past=2, future=4, static=2, outputs=3)
SMALL: dict[str, Any] = {"width": 12, "feed_forward": 20, "heads": 3, "factor": 1}
PRESETS = {name: InformerConfig(**asdict(recipe.config)) for name, recipe in InformerModel.recipes.items()}
DEFAULT = replace(PRESETS["default"], **SMALL)
FAITHFUL = replace(PRESETS["faithful"], **SMALL)
both_presets = pytest.mark.parametrize("config", [DEFAULT, FAITHFUL], ids=["default", "faithful"])


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    bias = weights.get(f"{name}.bias")
    product = x @ weights[f"{name}.weight"].T
    return product if bias is None else product + bias


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def perceptron(weights: Weights, name: str, x: Tensor) -> Tensor:
    hidden = linear(weights, f"{name}.0", x)
    return linear(weights, f"{name}.3", 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


def circular_convolution(weights: Weights, name: str, x: Tensor) -> Tensor:
    steps = x.shape[1]
    rows = []
    for t in range(steps):
        around = torch.cat([x[:, (t - 1) % steps], x[:, t], x[:, (t + 1) % steps]], dim=-1)
        rows.append(linear(weights, name, around))
    return torch.stack(rows, dim=1)


def embedding(weights: Weights, name: str, values: Tensor, calendar: Tensor, constants: Tensor) -> Tensor:
    tokens = circular_convolution(weights, f"{name}.values", values)
    width = tokens.shape[-1]
    for t in range(tokens.shape[1]):
        for column in range(width):
            angle = t / 10_000 ** (2 * (column // 2) / width)
            tokens[:, t, column] += math.cos(angle) if column % 2 else math.sin(angle)
    return (
        tokens
        + linear(weights, f"{name}.calendar", calendar)
        + linear(weights, f"{name}.constants", constants)[:, None]
    )


def softmax(scores: Tensor) -> Tensor:
    exponents = torch.exp(scores - scores.max())
    return exponents / exponents.sum()


def full_head(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    rows = []
    for i in range(len(query)):
        seen = i + 1 if causal else len(key)
        rows.append(softmax(key[:seen] @ query[i] / math.sqrt(query.shape[1])) @ value[:seen])
    return torch.stack(rows)


def sparse_head(query: Tensor, key: Tensor, value: Tensor, causal: bool, config: InformerConfig) -> Tensor:
    """Algorithm 1: measure every query on the sampled keys, attend with the best, give the others the mean."""
    steps = len(query)
    count = min(steps, config.factor * math.ceil(math.log(steps)))
    sampled = draw_keys(config.sampling, query_length=steps, key_length=steps, count=count, seed=0, device=query.device)
    measure = []
    for i in range(steps):
        scores = key[sampled if config.sampling == "shared" else sampled[i]] @ query[i]
        measure.append(float(scores.max() - scores.sum() / steps))
    best = sorted(range(steps), key=lambda i: -measure[i])[:count]
    attended = full_head(query, key, value, causal)
    rows = []
    for i in range(steps):
        initial = value[: i + 1].sum(0) if causal else value.mean(0)
        rows.append(attended[i] if i in best else initial)
    return torch.stack(rows)


def self_attention(weights: Weights, name: str, tokens: Tensor, config: InformerConfig, decoder: bool) -> Tensor:
    steps, width = tokens.shape[1:]
    size = width // config.heads
    kind = config.decoder_attention if decoder else config.attention
    samples = []
    for query, key, value in zip(*linear(weights, f"{name}.project", tokens).chunk(3, dim=-1), strict=True):
        heads = []
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            parts = query[:, part], key[:, part], value[:, part], decoder
            heads.append(sparse_head(*parts, config) if kind == "prob_sparse" else full_head(*parts))
        if decoder and config.mix:
            samples.append(torch.stack(heads).reshape(steps, width))
        else:
            samples.append(torch.cat(heads, dim=-1))
    return linear(weights, f"{name}.merge", torch.stack(samples))


def cross_attention(weights: Weights, name: str, tokens: Tensor, memory: Tensor, heads: int) -> Tensor:
    size = tokens.shape[-1] // heads
    asked = linear(weights, f"{name}.ask", tokens)
    keys, values = linear(weights, f"{name}.project", memory).chunk(2, dim=-1)
    mixed = torch.zeros_like(tokens)
    for sample in range(len(tokens)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            mixed[sample, :, part] = full_head(
                asked[sample, :, part], keys[sample, :, part], values[sample, :, part], causal=False
            )
    return linear(weights, f"{name}.merge", mixed)


def distilled(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    convolved = circular_convolution(weights, f"{name}.convolve", tokens)
    norm = f"{name}.norm"
    deviation = torch.sqrt(weights[f"{norm}.running_var"] + 1e-5)
    normed = (convolved - weights[f"{norm}.running_mean"]) / deviation
    normed = normed * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
    activated = torch.where(normed > 0, normed, torch.exp(normed) - 1)
    return torch.stack(
        [activated[:, max(0, t - 1) : t + 2].max(dim=1).values for t in range(0, tokens.shape[1], 2)], dim=1
    )


def encoder(weights: Weights, name: str, tokens: Tensor, config: InformerConfig, layers: int) -> Tensor:
    part = 0
    for layer in range(layers):
        if layer and config.distil:
            tokens = distilled(weights, f"{name}.{part}", tokens)
            part += 1
        here = f"{name}.{part}"
        attended = self_attention(weights, f"{here}.attention", tokens, config, decoder=False)
        tokens = layer_norm(weights, f"{here}.norm_attention", tokens + attended)
        tokens = layer_norm(
            weights, f"{here}.norm_feed_forward", tokens + perceptron(weights, f"{here}.feed_forward", tokens)
        )
        part += 1
    return layer_norm(weights, f"{name}.{part}", tokens)


def transcription(
    weights: Weights,
    config: InformerConfig,
    shape: WindowShape,
    past: Tensor,
    past_covariates: Tensor,
    historic: Tensor,
    future: Tensor,
    static: Tensor,
) -> Tensor:
    """Sections 3.2 to 3.4: encode the look-back, decode start token and placeholders at once, project."""
    start = config.label_length or min(48, shape.lookback)
    values = torch.cat([past, past_covariates], dim=-1)
    constants = torch.cat([static[:, min(i, static.shape[1] - 1)] for i in range(shape.targets)], dim=-1)
    encoded = embedding(weights, "embed_past", values, historic, constants)
    memory = torch.cat(
        [
            encoder(
                weights, f"stacks.{i}", encoded[:, shape.lookback - shape.lookback // 2**i :], config,
                config.encoder_layers - i,
            )
            for i in range(config.stacks)
        ],
        dim=1,
    )  # fmt: skip
    placeholders = torch.zeros(len(past), shape.horizon, values.shape[-1], dtype=past.dtype)
    tokens = embedding(
        weights,
        "embed_future",
        torch.cat([values[:, shape.lookback - start :], placeholders], dim=1),
        torch.cat([historic[:, shape.lookback - start :], future], dim=1),
        constants,
    )
    for layer in range(config.decoder_layers):
        name = f"decoder.{layer}"
        attended = self_attention(weights, f"{name}.attention", tokens, config, decoder=True)
        tokens = layer_norm(weights, f"{name}.norm_attention", tokens + attended)
        crossed = cross_attention(weights, f"{name}.cross", tokens, memory, config.heads)
        tokens = layer_norm(weights, f"{name}.norm_cross", tokens + crossed)
        tokens = layer_norm(
            weights, f"{name}.norm_feed_forward", tokens + perceptron(weights, f"{name}.feed_forward", tokens)
        )
    forecast = linear(weights, "head", layer_norm(weights, "norm", tokens))[:, start:]
    return forecast.reshape(-1, shape.horizon, shape.targets, shape.outputs)


def build(config: InformerConfig, shape: WindowShape = SHAPE) -> Informer:
    """Make a network in float64 whose norms are not the identity, which would hide a mistake."""
    config.check(shape.lookback, shape.horizon)
    torch.manual_seed(0)
    network = Informer(config, shape).double().eval()
    for name, weight in network.state_dict().items():
        if weight.is_floating_point():
            weight.add_(
                (0.1 * torch.randn_like(weight)).abs() if name.endswith("var") else 0.1 * torch.randn_like(weight)
            )
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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stacks": 3, "encoder_layers": 3, "decoder_layers": 2, "label_length": 5},
        {"attention": "full", "distil": False},
        {"mix": False},
    ],
    ids=["as it is", "deep", "full", "unmixed"],
)
@both_presets
def test_the_network_equals_the_equations(
    windows: list[Tensor], config: InformerConfig, changes: dict[str, Any]
) -> None:
    config = replace(config, **changes)
    network = build(config)
    with torch.no_grad():
        forecast = network(*windows)
    assert forecast.shape == (3, SHAPE.horizon, SHAPE.targets, SHAPE.outputs)
    assert (forecast - transcription(network.state_dict(), config, SHAPE, *windows)).abs().max() < 1e-6


def moved_by_the_last_step(config: InformerConfig, windows: list[Tensor]) -> Tensor:
    """Change the covariates of the last horizon step; how far each step's forecast moves, [H]."""
    network = build(config)
    future = windows[3].clone()
    future[:, -1] += 1
    with torch.no_grad():
        moved: Tensor = network(*windows[:3], future, windows[4]) - network(*windows)
    return moved.abs().amax(dim=(0, 2, 3))


def test_no_step_of_the_default_depends_on_later_covariates(windows: list[Tensor]) -> None:
    moved = moved_by_the_last_step(replace(DEFAULT, decoder_layers=2), windows)
    assert moved[:-1].max() < 1e-12
    assert moved[-1] > 1e-3


@pytest.mark.parametrize("changes", [{}, {"decoder_attention": "causal"}], ids=["official", "mixed heads alone"])
def test_earlier_steps_of_the_faithful_preset_do_depend_on_later_covariates(
    windows: list[Tensor], changes: dict[str, Any]
) -> None:
    moved = moved_by_the_last_step(replace(FAITHFUL, decoder_layers=2, **changes), windows)
    assert moved[:-1].max() > 1e-3


@both_presets
def test_evaluation_repeats_and_training_samples_keys_anew(windows: list[Tensor], config: InformerConfig) -> None:
    network = build(replace(config, dropout=0.0, attention_dropout=0.0))
    assert torch.equal(network(*windows), network(*windows))
    network.train()
    torch.manual_seed(1)
    first, second = network(*windows), network(*windows)
    torch.manual_seed(1)
    assert torch.equal(first, network(*windows))
    assert not torch.equal(first, second)
