"""The network is the paper's: an independent transcription of its equations gives the same numbers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries, concatenate
from darts.utils.likelihood_models import GaussianLikelihood, PoissonLikelihood, QuantileRegression
from torch import Tensor

from models import ITransformerModel, ModelError, ModelName
from models.darts.frame import Frame, FramedNetwork
from models.layers.attention import SelfAttention
from models.networks.itransformer import ITransformer, ITransformerConfig, VariateEncoderLayer
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
        tokens = torch.cat([linear(weights, "tokens.targets.project", part.mT) for part in columns], dim=1)
    else:
        targets = linear(weights, "tokens.targets.project", values.mT) + linear(weights, "tokens.static", static)
        known = torch.cat([historic, future], dim=1)
        tokens = torch.cat(
            [
                targets,
                linear(weights, "tokens.past.project", past_covariates.mT),
                linear(weights, "tokens.future.project", known.mT),
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


def test_the_last_layer_finishes_only_the_tokens_that_are_read(window: Callable[..., Tensor]) -> None:
    layer = VariateEncoderLayer(ITransformerConfig(width=16, feed_forward=8, heads=2)).double().eval()
    tokens = window(4, 7, 16)
    torch.testing.assert_close(layer(tokens, keep=3), layer(tokens)[:, :3])


@pytest.mark.parametrize("tokens", [1, 11, 40])
def test_shown_weights_are_those_of_the_fused_kernel(tokens: int, window: Callable[..., Tensor]) -> None:
    layer = SelfAttention(12, 3, 0.5).double().eval()
    x = window(2, tokens, 12)
    weights = layer.weights(x)
    assert weights.shape == (2, 3, tokens, tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, tokens, dtype=torch.float64))
    values = layer.project(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)  # [B, heads, N, D/heads]
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.merge(mixed), layer(x))


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


TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
TINY: dict[str, Any] = {"width": 16, "feed_forward": 16, "heads": 2, "n_epochs": 1, "pl_trainer_kwargs": TRAINER}


def build(**options: Any) -> Any:
    return ITransformerModel(26, 8, **TINY | options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"likelihood": GaussianLikelihood()},
        {"likelihood": QuantileRegression([0.1, 0.5, 0.9])},
        {"likelihood": PoissonLikelihood()},
        {"members": 2, "averaging": 0.9, "decomposition": 5},
        {"use_reversible_instance_norm": True, "scale_windows": False},
        {"shared_embedding": True, "output_chunk_shift": 2},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_for_the_channels_of_training_any_number_of_variates_is_what_predict_gives(
    options: dict[str, Any], panel: Any
) -> None:
    model = build(**options).fit(panel.series, **panel.covariates, verbose=False)
    raw = {"predict_likelihood_parameters": model.likelihood is not None, "verbose": False}
    for n in (8, 3):
        own = model.forecast_variates(n, panel.series, **panel.covariates)
        for ours, theirs in zip(own, model.predict(n, panel.series, **panel.covariates, **raw), strict=True):
            np.testing.assert_allclose(ours.values(), theirs.values(), atol=1e-5)
            assert list(ours.components) == list(theirs.components)
            assert ours.time_index.equals(theirs.time_index)


def test_series_of_different_width_are_forecast_at_once(
    panel: Any, fitted: Callable[[ModelName], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted(ModelName.ITRANSFORMER)
    one, two = panel.series[0]["a"], panel.series[1][["c", "a"]]
    three = concatenate([panel.series[0], panel.series[0] * 2], axis=1)
    past = [panel.past_covariates[0], panel.past_covariates[1]["p"], panel.past_covariates[0]]
    future = [panel.future_covariates[index] for index in (0, 1, 0)]
    found = model.forecast_variates(5, [one, two, three], past, future)
    assert [len(series) for series in found] == [5, 5, 5]
    levels = ("q0.100", "q0.500", "q0.900")
    assert list(found[1].components) == [f"{channel}_{level}" for channel in ("c", "a") for level in levels]
    assert found[2].n_components == 6 * 3
    alone = model.forecast_variates(5, two, past[1], future[1])
    np.testing.assert_allclose(alone.values(), found[1].values(), atol=1e-6)
    monkeypatch.setattr(model, "batch_size", 1)
    for one_by_one in model.forecast_variates(5, [two, two], past[1:2] * 2, future[1:2] * 2):
        np.testing.assert_allclose(one_by_one.values(), alone.values(), atol=1e-6)


def test_channels_never_trained_on_are_forecast_better_than_by_their_last_value() -> None:
    """Each channel is its own mix of the same two waves; one half of the channels is enough to learn the waves."""
    generator = np.random.default_rng(0)
    steps, lookback, horizon = np.arange(700)[:, None], 48, 12
    waves = np.concatenate([np.sin(2 * np.pi * steps / 24), np.sin(2 * np.pi * steps / 10)], axis=1)
    values = waves @ generator.standard_normal((2, 8)) + 0.1 * generator.standard_normal((700, 8))
    times = pd.date_range("2024-01-01", periods=700, freq="h")
    panel = TimeSeries.from_times_and_values(times, values.astype(np.float32), columns=list("abcdefgh"))
    model: Any = ITransformerModel(
        lookback, horizon, width=32, feed_forward=32, heads=4, n_epochs=6, random_state=0, pl_trainer_kwargs=TRAINER
    )
    model.fit(panel[:500][list("abcd")], verbose=False)
    unseen = panel[list("efgh")]
    origins = range(500, 700 - horizon, 7)
    found = model.forecast_variates(horizon, [unseen[:origin] for origin in origins])
    actual = np.stack([unseen[origin : origin + horizon].values() for origin in origins])
    last = np.stack([unseen[origin - 1].values() for origin in origins])
    error = np.mean((np.stack([series.values() for series in found]) - actual) ** 2)
    assert error < 0.25 * np.mean((last - actual) ** 2)


def test_static_covariates_go_with_any_number_of_channels(panel: Any) -> None:
    statics = pd.DataFrame({"size": [1.0, 2.0, 3.0], "kind": [0.0, 1.0, 0.0]})
    series = panel.series[0].with_static_covariates(statics)
    model = build().fit(series, verbose=False)
    same = model.predict(8, series, verbose=False).values()
    np.testing.assert_allclose(model.forecast_variates(8, series).values(), same, atol=1e-5)
    np.testing.assert_allclose(model.forecast_variates(8).values(), same, atol=1e-5)
    fewer = series[["a", "c"]]
    assert model.forecast_variates(8, fewer).n_components == 2
    per_series = panel.series[0].with_static_covariates(statics.iloc[:1])
    assert model.forecast_variates(8, per_series).n_components == 3
    for wrong in (panel.series[0], panel.series[0].with_static_covariates(statics[["size"]])):
        with pytest.raises(ModelError, match="must be 2 per channel") as caught:
            model.forecast_variates(8, [series, wrong])
        assert caught.value.code == "model.option_out_of_range"


def test_what_the_weights_cannot_forecast_is_refused(panel: Any, fitted: Callable[[ModelName], Any]) -> None:
    model = fitted(ModelName.ITRANSFORMER)
    alone = build(use_reversible_instance_norm=True)
    with pytest.raises(ModelError, match="call fit"):
        alone.forecast_variates(8, panel.series[0])
    alone.fit(panel.series[0], verbose=False)
    holes = panel.series[0].values(copy=True)
    holes[80] = np.nan
    gap = panel.series[0].with_values(holes)
    refused: list[tuple[str, Callable[[], Any]]] = [
        ("from 1 to 8", lambda: model.forecast_variates(9, panel.series, **panel.covariates)),
        ("from 1 to 8", lambda: model.forecast_variates(0, panel.series, **panel.covariates)),
        ("left out", lambda: alone.forecast_variates(8, panel.series[0], panel.past_covariates[0])),
        ("left out", lambda: alone.forecast_variates(8, panel.series[0], None, panel.future_covariates[0])),
        ("affine", lambda: alone.forecast_variates(8, panel.series[0][["a", "b"]])),
        ("3 missing values", lambda: alone.forecast_variates(8, gap)),
        ("from 0 to 0", lambda: alone.attention_maps(panel.series[0], member=1)),
    ]
    for match, call in refused:
        with pytest.raises(ModelError, match=match):
            call()


def test_attention_maps_name_every_token_and_leave_nothing_behind(
    panel: Any, fitted: Callable[[ModelName], Any]
) -> None:
    model = fitted(ModelName.ITRANSFORMER)
    covariates = {key: value[0] for key, value in panel.covariates.items()}
    model.model.train()
    maps = model.attention_maps(panel.series[0], **covariates)
    assert model.model.training
    assert maps.names == ("a", "b", "c", "p", "q", "u", "v", "w")
    assert maps.weights.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(maps.weights.sum(-1), 1, atol=1e-6)
    assert all(not module._forward_pre_hooks for module in model.model.modules())
    fewer = model.attention_maps(panel.series[0]["b"], **covariates)
    assert fewer.names == ("b", "p", "q", "u", "v", "w")
    assert fewer.weights.shape == (2, 2, 6, 6)


def test_each_member_has_attention_of_its_own(panel: Any) -> None:
    model = build(members=2, decomposition=5).fit(panel.series, verbose=False)
    first, second = (model.attention_maps(panel.series[0], member=member).weights for member in (0, 1))
    assert np.abs(first - second).max() > 1e-4
