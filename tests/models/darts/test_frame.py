"""The frame around every network: each option has its documented effect, alone and through the darts model."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import CATALOG, ITransformerModel, ModelError, ModelName, export_onnx
from models.catalog import TRAINABLE
from models.darts.frame import Decomposed, Frame, FramedNetwork, LinearPath, averaged
from models.shape import WindowShape

LOOKBACK, HORIZON, TARGETS = 26, 8, 3
SHAPE = WindowShape(lookback=LOOKBACK, horizon=HORIZON, targets=TARGETS, outputs=2)
FRAMED = [name for name, spec in CATALOG.items() if "members" in spec.option_names()]
OPTIONS: tuple[dict[str, Any], ...] = (
    {"decomposition": 5},
    {"linear_path": True},
    {"channel_dropout": 0.4},
    {"members": 2},
    {"averaging": 0.9},
    {"scale_windows": False},
)
TOGETHER: dict[str, Any] = {name: value for options in OPTIONS for name, value in options.items()}


class Repeat(nn.Module):
    """Forecast the last value times a weight, and keep what it was called with."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def forward(self, past_target: Tensor, *covariates: Tensor | None) -> Tensor:
        del covariates
        self.seen.append(past_target)
        last = past_target[:, -1:, :, None] * self.weight
        return last.expand(-1, HORIZON, -1, SHAPE.outputs)


def test_scaled_windows_come_back_in_their_own_level_and_unit(window: Callable[..., Tensor]) -> None:
    past = window(4, LOOKBACK, TARGETS)
    network = FramedNetwork(Repeat, Frame(), SHAPE).eval()
    torch.testing.assert_close(network(past * 7 + 50), network(past) * 7 + 50, atol=1e-4, rtol=1e-6)


def test_without_scaling_the_network_sees_the_window_itself(window: Callable[..., Tensor]) -> None:
    core = Repeat()
    past = window(4, LOOKBACK, TARGETS)
    FramedNetwork(lambda: core, Frame(scale_windows=False), SHAPE).eval()(past)
    assert torch.equal(core.seen[0], past)


def test_a_straight_line_is_all_trend_away_from_the_edges() -> None:
    core = Repeat(0.0)
    line = torch.arange(LOOKBACK, dtype=torch.float64)[None, :, None].expand(1, -1, TARGETS)
    network = Decomposed(core, 5, SHAPE).double()
    forecast = network(line)
    assert core.seen[0][:, 2:-2].abs().max() < 1e-12
    # Before training the trend is continued by its last value: of a padded average, hence below the line's end.
    torch.testing.assert_close(forecast, torch.full_like(forecast, (23 + 24 + 25 * 3) / 5))


def test_a_moving_average_longer_than_the_look_back_is_shortened_to_it(window: Callable[..., Tensor]) -> None:
    past = window(4, LOOKBACK, TARGETS)
    long, fitting = (Decomposed(Repeat(), steps, SHAPE).double() for steps in (99, 25))
    assert torch.equal(long(past), fitting(past))


def test_trend_and_remainder_sum_to_the_window(window: Callable[..., Tensor]) -> None:
    core = Repeat()
    past = window(4, LOOKBACK, TARGETS)
    forecast = Decomposed(core, 7, SHAPE).double()(past)
    # The untrained map continues the trend's last value and `Repeat` the remainder's: together the last value.
    torch.testing.assert_close(forecast, past[:, -1:, :, None].expand_as(forecast))


def test_a_linear_path_reads_the_whole_window_beside_a_network_that_does_not(window: Callable[..., Tensor]) -> None:
    core = Repeat()
    past = window(4, LOOKBACK, TARGETS)
    frame = Frame(scale_windows=False, decomposition=7)
    network, beside = (
        FramedNetwork(lambda: core, made, SHAPE).double().eval() for made in (frame, replace(frame, linear_path=True))
    )
    assert beside.cores == [core]
    torch.testing.assert_close(beside(past), network(past))  # an untrained path adds zero
    assert torch.equal(core.seen[-1], beside.core_inputs(past)[0])
    path = beside.members[0]
    assert isinstance(path, LinearPath)
    with torch.no_grad():
        path.linear.weight.copy_(torch.randn_like(path.linear.weight))
    mapped = torch.einsum("blc,ol->bco", past, path.linear.weight).unflatten(2, (HORIZON, SHAPE.outputs))
    torch.testing.assert_close(beside(past), network(past) + mapped.transpose(1, 2))


def test_channel_dropout_blanks_whole_channels_while_training_only(window: Callable[..., Tensor]) -> None:
    core = Repeat()
    past = window(400, LOOKBACK, TARGETS)
    network = FramedNetwork(lambda: core, Frame(scale_windows=False, channel_dropout=0.3), SHAPE)
    network.train()(past)
    blank = (core.seen[-1] == 0).all(1)  # [B, C]
    assert 0.24 < blank.double().mean() < 0.36
    kept = ~blank[:, None, :].expand_as(past)
    assert torch.equal(core.seen[-1][kept], past[kept])
    network.eval()(past)
    assert torch.equal(core.seen[-1], past)


def test_members_are_averaged_in_evaluation_and_get_a_part_each_in_training(window: Callable[..., Tensor]) -> None:
    weights = iter((1.0, 3.0))
    network = FramedNetwork(lambda: Repeat(next(weights)), Frame(scale_windows=False, members=2), SHAPE)
    past = window(4, LOOKBACK, TARGETS)
    single = past[:, -1:, :, None].expand(-1, HORIZON, -1, SHAPE.outputs)
    torch.testing.assert_close(network.eval()(past), single * 2)
    torch.testing.assert_close(network.train()(past), torch.cat([single[:2], single[2:] * 3]))


def test_averaged_weights_follow_and_settle() -> None:
    network = nn.Linear(2, 1)
    mean = averaged(network, 0.9)
    for _ in range(200):
        with torch.no_grad():
            network.weight.fill_(5.0)
        mean.update_parameters(network)
    torch.testing.assert_close(mean.module.weight, network.weight)
    assert not any(parameter.requires_grad for parameter in mean.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    # The frame knows nothing of the network in it: each option once by itself, and all of them around each network.
    [*((ModelName.ITRANSFORMER, options) for options in OPTIONS), *((name, TOGETHER) for name in FRAMED)],
    ids=lambda part: part if isinstance(part, str) else "+".join(part),
)
def test_every_option_trains_and_saves_with_every_network(
    name: ModelName,
    options: dict[str, Any],
    panel: Any,
    tiny: Callable[..., Any],
    tiny_options: Callable[..., Any],
    forecast: Callable[..., np.ndarray],
    tmp_path: Any,
) -> None:
    model = tiny(name, max_epochs=1, options={**tiny_options(name), **options})
    model.fit(panel.series, **panel.covariates, verbose=False)
    values = forecast(model, panel)
    assert np.isfinite(values).all()
    model.save(str(tmp_path / "model.pt"), clean=True)
    loaded = type(model).load(str(tmp_path / "model.pt"), pl_trainer_kwargs={"accelerator": "cpu"})
    np.testing.assert_array_equal(forecast(loaded, panel), values)


@pytest.mark.slow
def test_members_and_a_decomposition_are_a_part_of_the_exported_file(
    panel: Any, tiny: Callable[..., Any], tiny_options: Callable[..., Any], tmp_path: Any
) -> None:
    name = ModelName.ITRANSFORMER
    options = {**tiny_options(name), "members": 2, "decomposition": 5, "channel_dropout": 0.2}
    model = tiny(name, max_epochs=1, options=options).fit(panel.series, **panel.covariates, verbose=False)
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference < 1e-4


def test_members_start_apart_and_all_learn(panel: Any, tiny: Callable[..., Any]) -> None:
    options = {"width": 16, "feed_forward": 16, "heads": 2, "members": 2, "averaging": 0.0}
    started = tiny(ModelName.ITRANSFORMER, max_epochs=1, options=options)
    model = started.fit(panel.series, **panel.covariates, verbose=False)
    first, second = (dict(member.named_parameters()) for member in model.model.network.members)
    name = next(name for name in first if name.endswith("head.weight"))
    assert not torch.equal(first[name], second[name])
    steps = [group["params"] for group in model.trainer.optimizers[0].param_groups]
    state = model.trainer.optimizers[0].state
    assert all(state[parameter]["exp_avg"].abs().sum() > 0 for parameter in chain(*steps))


def test_members_learn_as_they_would_alone(
    panel: Any, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member of several gets the gradients of its own loss: the joint loss is the mean of the members' losses."""
    model = tiny(
        ModelName.ITRANSFORMER, options={"width": 16, "feed_forward": 16, "heads": 2, "members": 3, "dropout": 0.0}
    )
    model.fit(panel.series, **panel.covariates, epochs=1, verbose=False)
    module = model.model.train()
    batch = next(iter(model.trainer.train_dataloader))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer to log to
    module.zero_grad()
    module.training_step(batch, 0).backward()
    joint = [parameter.grad.clone() for parameter in module.network.members[1].parameters()]
    alone = FramedNetwork(lambda: module.network.members[1], Frame(), module._window_shape()).train()
    module.zero_grad()
    inputs = batch.to_module_input()
    prediction = alone(
        inputs.past_target, inputs.past_covariates, inputs.historic_future_covariates, inputs.future_covariates, None
    )
    module.likelihood.compute_loss(prediction, batch.future_target, None).backward()
    for shared, parameter in zip(joint, module.network.members[1].parameters(), strict=True):
        torch.testing.assert_close(shared * 3, parameter.grad, atol=1e-6, rtol=1e-3)


def test_validation_and_forecasts_use_the_averaged_weights(panel: Any, tiny: Callable[..., Any]) -> None:
    options = {"width": 16, "feed_forward": 16, "heads": 2, "averaging": 0.99}
    model = tiny(ModelName.ITRANSFORMER, options=options).fit(panel.series, **panel.covariates, verbose=False)
    module = model.model
    assert module.train().forecaster is module.network
    assert module.eval().forecaster is module.averaged.module
    trained, followed = module.network.state_dict(), module.averaged.module.state_dict()
    assert any(not torch.equal(trained[key], followed[key]) for key in trained)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"channel_dropout": 1.0}, "model.option_out_of_range"),
        ({"averaging": -0.1}, "model.option_out_of_range"),
        ({"members": 0}, "model.option_out_of_range"),
        ({"decomposition": 4}, "model.option_out_of_range"),
        ({"decomposition": -1}, "model.option_out_of_range"),
        ({"loss": "mape"}, "model.option_out_of_range"),
    ],
)
def test_a_frame_that_cannot_work_is_refused_when_built(options: dict[str, Any], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        ITransformerModel(LOOKBACK, HORIZON, **options)
    assert caught.value.code == code


@pytest.mark.parametrize(("loss", "expected"), [("mse", nn.MSELoss), ("l1", nn.L1Loss), ("huber", nn.HuberLoss)])
def test_a_loss_is_asked_for_by_name(loss: str, expected: type[nn.Module]) -> None:
    assert isinstance(ITransformerModel(LOOKBACK, HORIZON, loss=loss).pl_module_params["loss_fn"], expected)


def test_a_loss_beside_a_likelihood_is_refused(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="left out where a likelihood") as caught:
        tiny(ModelName.ITRANSFORMER, options={"loss": "l1"})
    assert caught.value.code == "model.option_out_of_range"


@pytest.mark.parametrize("name", [name for name in TRAINABLE if CATALOG[name].model_class().recipes["default"].frame])
def test_the_ensemble_is_the_default_three_times_over(name: ModelName) -> None:
    model_class = CATALOG[name].model_class()
    one, three = model_class(48, 24), model_class(48, 24, preset="ensemble")
    assert three.network_options == one.network_options
    assert three.frame_options == {**one.frame_options, "members": 3}


def test_a_model_that_is_solved_has_no_ensemble() -> None:
    with pytest.raises(ModelError, match="preset"):
        CATALOG[ModelName.LINEAR].model_class()(48, 24, preset="ensemble")
