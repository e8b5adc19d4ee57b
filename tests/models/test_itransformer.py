"""The network is the paper's: an independent transcription of its equations gives the same numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import ITransformerModel, ModelError
from models.frame import Frame, FramedNetwork
from models.itransformer import ITransformer, ITransformerConfig
from models.layers.attention import SelfAttention
from models.shape import WindowShape

Weights = dict[str, Tensor]
SHAPE = WindowShape(lookback=15, horizon=6, targets=3, past=2, future=4, static=2, outputs=3)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(weights: Weights, name: str, tokens: Tensor, heads: int) -> Tensor:
    """Softmax(Q K' / sqrt(d)) V, one head and one sample at a time."""
    width = tokens.shape[-1]
    size = width // heads
    query, key, value = linear(weights, f"{name}.project", tokens).chunk(3, dim=-1)
    mixed = torch.zeros_like(tokens)
    for sample in range(tokens.shape[0]):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[sample, :, part] @ key[sample, :, part].T / math.sqrt(size)
            exponents = torch.exp(scores - scores.max())
            mixed[sample, :, part] = exponents / exponents.sum(-1, keepdim=True) @ value[sample, :, part]
    return linear(weights, f"{name}.merge", mixed)


def transcription(
    weights: Weights,
    config: ITransformerConfig,
    shape: WindowShape,
    past: Tensor,
    past_covariates: Tensor,
    historic: Tensor,
    future: Tensor,
    static: Tensor,
) -> Tensor:
    """iTransformer, section 3: normalise, embed variates, attend, feed forward, project."""
    mean = past.mean(1, keepdim=True)
    deviation = torch.sqrt(((past - mean) ** 2).mean(1, keepdim=True) + 1e-5)
    values = (past - mean) / deviation
    if config.shared_embedding:
        columns = [values, past_covariates, historic]
        tokens = torch.cat([linear(weights, "embed_target.project", part.mT) for part in columns], dim=1)
    else:
        targets = linear(weights, "embed_target.project", values.mT) + linear(weights, "embed_static", static)
        known = torch.cat([historic, future], dim=1)
        tokens = torch.cat(
            [
                targets,
                linear(weights, "embed_past.project", past_covariates.mT),
                linear(weights, "embed_future.project", known.mT),
            ],
            dim=1,
        )
    for layer in range(config.layers):
        name = f"encoder.{layer}"
        attended = attention(weights, f"{name}.attention", tokens, config.heads)
        tokens = layer_norm(weights, f"{name}.norm_attention", tokens + attended)
        hidden = gelu(linear(weights, f"{name}.feed_forward.0", tokens))
        tokens = layer_norm(
            weights, f"{name}.norm_feed_forward", tokens + linear(weights, f"{name}.feed_forward.3", hidden)
        )
    encoded = layer_norm(weights, "norm", tokens)[:, : shape.targets]
    outputs = linear(weights, "head", encoded).reshape(-1, shape.targets, shape.horizon, shape.outputs)
    return outputs.permute(0, 2, 1, 3) * deviation[..., None] + mean[..., None]


@pytest.fixture
def windows(window: Callable[..., Tensor]) -> list[Tensor]:
    shape = SHAPE
    return [
        window(4, shape.lookback, shape.targets, seed=1) * 3 + 2,
        window(4, shape.lookback, shape.past, seed=2),
        window(4, shape.lookback, shape.future, seed=3),
        window(4, shape.horizon, shape.future, seed=4),
        window(4, 1, shape.static, seed=5),
    ]


@pytest.mark.parametrize("shared_embedding", [True, False])
def test_the_network_equals_the_equations(windows: list[Tensor], shared_embedding: bool) -> None:
    config = ITransformerConfig(width=12, feed_forward=20, layers=2, heads=3, shared_embedding=shared_embedding)
    torch.manual_seed(0)
    network = ITransformer(config, SHAPE).double().eval()
    weights = network.state_dict()
    for name in weights:  # norms start as the identity, which would hide a mistake
        weights[name].add_(0.1 * torch.randn_like(weights[name]))
    forecast = FramedNetwork(lambda: network, Frame(), SHAPE).eval()(*windows)
    assert forecast.shape == (4, SHAPE.horizon, SHAPE.targets, SHAPE.outputs)
    assert (forecast - transcription(weights, config, SHAPE, *windows)).abs().max() < 1e-9


def test_known_future_values_reach_the_forecast_by_default_only(windows: list[Tensor]) -> None:
    changed = [*windows[:3], windows[3] + 1, windows[4]]
    for shared_embedding in (False, True):
        config = ITransformerConfig(width=16, heads=2, shared_embedding=shared_embedding)
        network = ITransformer(config, SHAPE).double().eval()
        assert torch.equal(network(*windows), network(*changed)) is shared_embedding


def test_static_covariates_per_channel_and_per_series_are_both_taken(
    windows: list[Tensor], window: Callable[..., Tensor]
) -> None:
    network = ITransformer(ITransformerConfig(width=16, heads=2), SHAPE).double().eval()
    per_channel = network(*windows[:4], windows[4].expand(-1, SHAPE.targets, -1))
    torch.testing.assert_close(per_channel, network(*windows))
    assert not torch.equal(network(*windows[:4], window(4, SHAPE.targets, SHAPE.static, seed=9)), per_channel)


def test_the_order_of_covariates_does_not_matter_to_the_tokens_of_targets(windows: list[Tensor]) -> None:
    """Variate tokens have no position: swapping two past covariates leaves the forecast as it was."""
    network = ITransformer(ITransformerConfig(width=16, heads=2), SHAPE).double().eval()
    swapped = [windows[0], windows[1].flip(-1), *windows[2:]]
    torch.testing.assert_close(network(*swapped), network(*windows), atol=1e-12, rtol=0)


def test_heads_that_cannot_share_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 3, for instance 9"):
        SelfAttention(10, 3, 0.0)


def test_the_faithful_preset_is_the_official_recipe() -> None:
    model = ITransformerModel(96, 96, preset="faithful")
    options = model.network_options
    assert (options["width"], options["heads"], options["layers"], options["dropout"]) == (256, 8, 2, 0.1)
    assert options["shared_embedding"]
    assert model.pl_module_params["optimizer_kwargs"]["lr"] == 1e-4
    assert (model.batch_size, model.n_epochs) == (32, 10)
