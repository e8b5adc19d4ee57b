"""The network is the paper's: an independent transcription of its equations gives the same numbers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torchmetrics import MeanAbsoluteError

from models import ModelError, ModelName, PatchTSMixerModel, export_onnx
from models.darts.frame import Frame, FramedNetwork
from models.layers.patching import Patching
from models.networks.patch_tsmixer import PatchTSMixer, PatchTSMixerConfig
from models.shape import WindowShape

Weights = dict[str, Tensor]
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
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


def reconcile_channels(weights: Weights, y: Tensor, context: int) -> Tensor:
    """Each step and output by itself: gate and linear map over all channels' forecasts around it, on [B, H, C, Q]."""
    horizon, name = y.shape[1], "reconcile_channels"
    revised = y.clone()
    for step in range(horizon):
        around = [min(max(step + offset, 0), horizon - 1) for offset in range(-context, context + 1)]
        for output in range(y.shape[3]):
            surrounding = torch.cat([y[:, other, :, output] for other in around], dim=1)
            revised[:, step, :, output] += linear(
                weights, f"{name}.revise", gate(weights, f"{name}.gate.score", surrounding)
            )
    return revised


def reconcile_hierarchy(weights: Weights, y: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Forecast the segments' means from each channel's whole forecast, revise each segment by it, on [B, H, C, Q]."""
    horizon, name = y.shape[1], "reconcile_hierarchy"
    means = linear(weights, f"{name}.forecast_means", y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    revised = y.clone()
    for index, first in enumerate(range(0, horizon, length)):
        last = min(first + length, horizon)
        shown = torch.zeros(y.shape[0], y.shape[2], y.shape[3], length + 1, dtype=y.dtype)
        shown[..., : last - first] = y[:, first:last].permute(0, 2, 3, 1)
        shown[..., -1] = means[:, index]
        revision = linear(weights, f"{name}.revise", shown)
        revised[:, first:last] += revision[..., : last - first].permute(0, 3, 1, 2)
    return revised, means


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
    if config.channel_context:
        y = reconcile_channels(weights, y, config.channel_context)
    if config.hierarchy:
        y, _ = reconcile_hierarchy(weights, y, config.hierarchy)
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
    assert_parity(PatchTSMixer(config, SHAPE), windows)


@pytest.mark.parametrize(("context", "hierarchy"), [(1, 0), (2, 0), (0, 3), (0, 4), (7, 2)])
def test_the_reconciliation_heads_equal_the_equations(windows: list[Tensor], context: int, hierarchy: int) -> None:
    config = PatchTSMixerConfig(
        width=6, layers=1, patch_length=4, patch_stride=4, channel_context=context, hierarchy=hierarchy
    )
    torch.manual_seed(0)
    assert_parity(PatchTSMixer(config, SHAPE), windows)


def assert_parity(network: PatchTSMixer, windows: list[Tensor]) -> None:
    network = network.double().eval()
    weights = network.state_dict()
    for name, weight in weights.items():  # norms and heads start as the identity, which would hide a mistake
        weight.add_(0.1 * torch.randn_like(weight)) if "norm" in name or "reconcile" in name else None
    forecast = FramedNetwork(lambda: network, Frame(), SHAPE).eval()(*windows)
    assert forecast.shape == (4, SHAPE.horizon, SHAPE.targets, SHAPE.outputs)
    expected = transcription(weights, network.config, SHAPE, windows[0], windows[1], windows[3])
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


@pytest.fixture
def heads(tiny_options: Callable[..., Mapping[str, Any]]) -> dict[str, Any]:
    return {**tiny_options(ModelName.PATCH_TSMIXER), "channel_context": 1, "hierarchy": 4}


def one_batch(model: Any) -> Any:
    """Put the model's module into training and take a batch to train it on."""
    model.model.train()
    return next(iter(model.trainer.train_dataloader))


def test_the_hierarchical_loss_is_the_papers(panel: Any, tiny: Callable[..., Any], heads: dict[str, Any]) -> None:
    """Squared errors of sums over segments, divided by the squared length, forecast against true and against summed."""
    heads |= {"dropout": 0.0, "head_dropout": 0.0, "hierarchy_weight": 0.5, "loss": "mse", "averaging": 0.0}
    model = tiny(ModelName.PATCH_TSMIXER, quantiles=(), options=heads).fit(panel.series, verbose=False)
    batch, module = one_batch(model), model.model
    network = module.network.members[0]
    output = module(batch.to_module_input())
    loss = module._compute_loss(output, batch.future_target, module.train_criterion, None)

    forecast = module.eval()(batch.to_module_input()).prediction[..., 0]  # [B, H, C]
    scaled = (batch.past_target - batch.past_target.mean(1, keepdim=True)) / (
        batch.past_target.var(1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    unrevised = network.reconcile_channels(network_before_heads(network, scaled))
    _, means = reconcile_hierarchy(
        {f"reconcile_hierarchy.{name}": weight for name, weight in network.reconcile_hierarchy.state_dict().items()},
        unrevised,
        4,
    )
    level = batch.past_target.mean(1, keepdim=True)
    spread = (batch.past_target.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    sums = (means[..., 0] * spread + level) * 4  # [B, S, C]
    true, message = (values.unflatten(1, (2, 4)).sum(2) for values in (batch.future_target, forecast))
    expected = ((forecast - batch.future_target) ** 2).mean()
    expected = expected + 0.5 * (((sums - true) ** 2).mean() / 16 + ((sums - message) ** 2).mean() / 16)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert network.reconcile_hierarchy.forecast_means.weight.grad.abs().sum() > 0


def network_before_heads(network: PatchTSMixer, scaled: Tensor) -> Tensor:
    """Forecast without revision, [B, H, C, 1]."""
    encoded = network.encode(network.patch(scaled))  # [C, N, B, D]
    forecast: Tensor = network.head(encoded.permute(2, 0, 1, 3).flatten(2))  # [B, C, H]
    return forecast.unsqueeze(-1).transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("quantiles", [(), (0.1, 0.5, 0.9)], ids=["point", "quantiles"])
@pytest.mark.parametrize("options", [{}, {"decomposition": 5, "members": 2}], ids=["plain", "framed"])
def test_a_wrong_segment_mean_costs_in_training_and_changes_no_validation_loss(
    panel: Any, tiny: Callable[..., Any], heads: dict[str, Any], quantiles: tuple[float, ...], options: dict[str, Any]
) -> None:
    heads |= {"dropout": 0.0, "head_dropout": 0.0, **options}
    weighed = [
        tiny(ModelName.PATCH_TSMIXER, quantiles=quantiles, max_epochs=1, options={**heads, "hierarchy_weight": weight})
        for weight in (0.0, 2.0)
    ]
    losses = []
    for model in weighed:
        model.fit(
            panel.series,
            **panel.covariates,
            val_series=panel.series,
            verbose=False,
            val_past_covariates=panel.past_covariates,
            val_future_covariates=panel.future_covariates,
        )
        losses.append(model.trainer.callback_metrics)
    assert losses[1]["train_loss"] > losses[0]["train_loss"] * 1.2
    assert losses[1]["val_loss"] < losses[0]["val_loss"] * 1.2


@pytest.mark.slow
def test_both_heads_learn_save_and_export(
    panel: Any, tiny: Callable[..., Any], heads: dict[str, Any], forecast: Callable[..., np.ndarray], tmp_path: Any
) -> None:
    model = tiny(ModelName.PATCH_TSMIXER, options=heads).fit(panel.series, **panel.covariates, verbose=False)
    network = model.model.network.members[0]
    assert network.reconcile_channels.revise.weight.abs().sum() > 0
    assert network.reconcile_hierarchy.revise.weight.abs().sum() > 0
    model.save(str(tmp_path / "model.pt"), clean=True)
    loaded = PatchTSMixerModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs={"accelerator": "cpu"})
    np.testing.assert_array_equal(forecast(loaded, panel), forecast(model, panel))
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference < 1e-5


def test_metrics_are_taken_of_the_forecast_alone(
    panel: Any, tiny_options: Callable[..., Mapping[str, Any]], tmp_path: Any
) -> None:
    own = {**tiny_options(ModelName.PATCH_TSMIXER), "hierarchy": 4, "torch_metrics": MeanAbsoluteError()}
    trainer = {**QUIET, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    model: Any = PatchTSMixerModel(26, 8, **own, n_epochs=1, pl_trainer_kwargs=trainer)
    model.fit(panel.series, verbose=False)
    assert 0 < model.trainer.callback_metrics["train_MeanAbsoluteError"] < 10


@pytest.mark.parametrize(
    "options", [{}, {"scale_windows": False, "use_reversible_instance_norm": {"affine": True}}], ids=["scaled", "revin"]
)
def test_windows_are_levelled_by_scaling_or_by_learned_revin(
    panel: Any, tiny_options: Callable[..., Mapping[str, Any]], options: dict[str, Any]
) -> None:
    """Either way a series at another level and in another unit is forecast as the series itself."""
    own = {**tiny_options(ModelName.PATCH_TSMIXER), **options}
    model: Any = PatchTSMixerModel(26, 8, **own, n_epochs=2, random_state=0, pl_trainer_kwargs=QUIET)
    model.fit(panel.series, verbose=False)
    moved = model.predict(8, panel.series[0] * 7 + 50).values()
    np.testing.assert_allclose(moved, model.predict(8, panel.series[0]).values() * 7 + 50, atol=1e-3)
    if options:
        learned = model.model.rin.affine_weight
        assert not torch.equal(learned, torch.ones_like(learned))


@pytest.mark.parametrize("option", ["channel_context", "hierarchy", "hierarchy_weight"])
def test_a_head_below_zero_is_refused(option: str, tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError) as caught:
        tiny(ModelName.PATCH_TSMIXER, options={option: -1})
    assert caught.value.code == "model.option_out_of_range"
