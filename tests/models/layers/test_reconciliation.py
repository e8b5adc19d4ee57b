"""The reconciliation heads: their inputs, the range of their revisions, and no change before training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.layers.reconciliation import ChannelReconciliation, HierarchyReconciliation

BATCH, HORIZON, CHANNELS, OUTPUTS = 3, 10, 4, 2


@pytest.fixture
def forecast(window: Callable[..., Tensor]) -> Tensor:
    return window(BATCH, HORIZON, CHANNELS, OUTPUTS)


def shaken(head: nn.Module) -> Any:
    """Give every weight a value, as training would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    return head.double()


@pytest.mark.parametrize("length", [1, 3, 5, 10, 40])
def test_an_untrained_hierarchy_gives_the_averages_and_changes_nothing(forecast: Tensor, length: int) -> None:
    head = HierarchyReconciliation(HORIZON, length).double()
    revised, means = head(forecast)
    assert torch.equal(revised, forecast)
    parts = torch.split(forecast, min(length, HORIZON), dim=1)
    torch.testing.assert_close(means, torch.stack([part.mean(1) for part in parts], dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [1, 3, 5, 40])
def test_averages_survive_being_spread_over_their_steps(forecast: Tensor, length: int) -> None:
    head = HierarchyReconciliation(HORIZON, length).double()
    means = head.average(forecast)
    spread = head.spread(means)
    assert spread.shape == forecast.shape
    torch.testing.assert_close(head.average(spread), means, atol=1e-6, rtol=1e-6)


def test_a_mean_revises_the_steps_of_its_own_segment(forecast: Tensor) -> None:
    """One step changes its segment's revision; other segments see it through their means only."""
    head = shaken(HierarchyReconciliation(HORIZON, 4))
    head.forecast_means.weight.data.mul_(head.weights != 0)  # each mean from its own segment
    other = forecast.clone()
    other[:, 5] += 1
    touched = (head(other)[0] - head(forecast)[0]).abs().amax(dim=(0, 2, 3)) > 0
    assert touched.tolist() == [False] * 4 + [True] * 4 + [False] * 2


def test_an_untrained_channel_head_changes_nothing(forecast: Tensor) -> None:
    assert torch.equal(ChannelReconciliation(CHANNELS, HORIZON, 2).double()(forecast), forecast)


def test_a_step_is_revised_by_all_channels_within_the_context(forecast: Tensor) -> None:
    head = shaken(ChannelReconciliation(CHANNELS, HORIZON, 2))
    other = forecast.clone()
    other[:, 6, 1] += 1
    difference = (head(other) - head(forecast)).abs().amax(dim=(0, 3))  # [H, C]
    assert (difference > 0).any(dim=1).tolist() == [False] * 4 + [True] * 5 + [False]
    assert (difference[4:9] > 0).all()


def test_outputs_are_revised_each_by_itself(forecast: Tensor) -> None:
    for head in (shaken(ChannelReconciliation(CHANNELS, HORIZON, 1)), shaken(HierarchyReconciliation(HORIZON, 3))):
        both, first = head(forecast), head(forecast[..., :1])
        if isinstance(both, tuple):
            both, first = both[0], first[0]
        torch.testing.assert_close(both[..., :1], first)


def test_one_channel_and_one_step_are_enough(window: Callable[..., Tensor]) -> None:
    single = window(BATCH, 1, 1, 1)
    assert shaken(ChannelReconciliation(1, 1, 3))(single).shape == single.shape
    revised, means = shaken(HierarchyReconciliation(1, 8))(single)
    assert revised.shape == means.shape == single.shape
