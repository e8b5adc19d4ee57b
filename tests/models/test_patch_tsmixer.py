"""The network is the paper's: an independent transcription of its equations gives the same numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.frame import Frame, FramedNetwork
from models.layers.patching import Patching
from models.patch_tsmixer import PatchTSMixer, PatchTSMixerConfig
from models.shape import WindowShape

Weights = dict[str, Tensor]
SHAPE = WindowShape(lookback=19, horizon=6, targets=3, past=2, future=4, outputs=3)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gate(weights: Weights, name: str, x: Tensor) -> Tensor:
    scores = torch.exp(linear(weights, name, x))
    return x * scores / scores.sum(-1, keepdim=True)


def mlp(weights: Weights, name: str, x: Tensor) -> Tensor:
    return linear(weights, f"{name}.3", gelu(linear(weights, f"{name}.0", x)))


def mixer(weights: Weights, name: str, x: Tensor, kind: str) -> Tensor:
    """One residual mixer on [B, K, N, D]: `channels` gates its input, the others their output."""
    y = layer_norm(weights, f"{name}.norm", x)
    if kind == "channels":
        y = y.permute(0, 2, 3, 1)  # [B, N, D, K]
        y = mlp(weights, f"{name}.mix.1", gate(weights, f"{name}.mix.0.score", y)).permute(0, 3, 1, 2)
    elif kind == "patches":
        y = y.transpose(2, 3)  # [B, K, D, N]
        y = gate(weights, f"{name}.mix.1.score", mlp(weights, f"{name}.mix.0", y)).transpose(2, 3)
    else:
        y = gate(weights, f"{name}.mix.1.score", mlp(weights, f"{name}.mix.0", y))
    return x + y


def transcription(
    weights: Weights,
    config: PatchTSMixerConfig,
    shape: WindowShape,
    past: Tensor,
    past_covariates: Tensor,
    future: Tensor,
) -> Tensor:
    """TSMixer, section 3: normalise, patch, mix, project; every channel carried through to the end."""
    mean = past.mean(1, keepdim=True)
    deviation = torch.sqrt(((past - mean) ** 2).mean(1, keepdim=True) + 1e-5)
    values = (past - mean) / deviation
    if config.mix_channels:
        values = torch.cat([values, past_covariates], dim=2)
    cuts: list[Tensor] = []
    end = shape.lookback
    while end - config.patch_length >= 0:
        cuts.insert(0, values[:, end - config.patch_length : end])
        end -= config.patch_stride
    patches = torch.stack(cuts, dim=1).permute(0, 3, 1, 2)  # [B, K, N, length]
    x = linear(weights, "embed", patches)
    for layer in range(config.layers):
        if config.mix_channels:
            x = mixer(weights, f"layers.{layer}.channels", x, "channels")
        x = mixer(weights, f"layers.{layer}.patches", x, "patches")
        x = mixer(weights, f"layers.{layer}.features", x, "features")
    flat = x[:, : shape.targets].reshape(x.shape[0], shape.targets, -1)
    y = linear(weights, "head", flat).reshape(-1, shape.targets, shape.horizon, shape.outputs).permute(0, 2, 1, 3)
    known = linear(weights, "future.2", gelu(linear(weights, "future.0", future)))
    y = y + known.reshape(-1, shape.horizon, shape.targets, shape.outputs)
    return y * deviation[..., None] + mean[..., None]


@pytest.fixture
def windows(window: Callable[..., Tensor]) -> list[Tensor]:
    shape = SHAPE
    return [
        window(4, shape.lookback, shape.targets, seed=1) * 3 + 2,
        window(4, shape.lookback, shape.past, seed=2),
        window(4, shape.lookback, shape.future, seed=3),
        window(4, shape.horizon, shape.future, seed=4),
    ]


@pytest.mark.parametrize("mix_channels", [True, False])
@pytest.mark.parametrize(("length", "stride"), [(4, 4), (5, 3), (19, 1)])
def test_the_network_equals_the_equations(windows: list[Tensor], mix_channels: bool, length: int, stride: int) -> None:
    config = PatchTSMixerConfig(
        width=6, expansion=2, layers=2, patch_length=length, patch_stride=stride, mix_channels=mix_channels
    )
    torch.manual_seed(0)
    network = PatchTSMixer(config, SHAPE).double().eval()
    weights = network.state_dict()
    for name, weight in weights.items():  # norms start as the identity, which would hide a mistake
        weight.add_(0.1 * torch.randn_like(weight)) if name.count("norm") else None
    forecast = FramedNetwork(lambda: network, Frame(), SHAPE).eval()(*windows)
    assert forecast.shape == (4, SHAPE.horizon, SHAPE.targets, SHAPE.outputs)
    expected = transcription(weights, config, SHAPE, windows[0], windows[1], windows[3])
    assert (forecast - expected).abs().max() < 1e-9


def test_past_covariates_count_in_hybrid_mode_only(windows: list[Tensor]) -> None:
    changed = [windows[0], windows[1] + 1, *windows[2:]]
    for mix_channels in (True, False):
        config = PatchTSMixerConfig(width=6, patch_length=4, patch_stride=4, mix_channels=mix_channels)
        network = PatchTSMixer(config, SHAPE).double().eval()
        assert torch.equal(network(*windows), network(*changed)) is not mix_channels


def test_known_future_values_change_their_own_step_only(windows: list[Tensor]) -> None:
    network = PatchTSMixer(PatchTSMixerConfig(width=6, patch_length=4, patch_stride=4), SHAPE).double().eval()
    later = windows[3].clone()
    later[:, 2] += 1
    difference = (network(*windows[:3], later) - network(*windows)).abs().amax(dim=(0, 2, 3))
    assert difference[2] > 0
    assert difference.sum() == difference[2]


@pytest.mark.parametrize(("lookback", "length", "stride"), [(16, 4, 4), (18, 4, 4), (17, 5, 3), (7, 7, 2)])
def test_patches_end_with_the_newest_step_and_drop_the_oldest(lookback: int, length: int, stride: int) -> None:
    patches = Patching(lookback, length, stride)(torch.arange(lookback).float().view(1, lookback, 1))
    starts = range((lookback - length) % stride, lookback - length + 1, stride)
    assert patches[0, 0].tolist() == [list(range(start, start + length)) for start in starts]
