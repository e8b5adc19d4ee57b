"""Properties of the shared layers, beyond the networks' own parity tests."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.layers.dropout import Dropout
from models.layers.normalization import scale_window


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.7])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1001, 333))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=0.004)


def test_dropout_does_nothing_in_evaluation_and_repeats_with_a_seed() -> None:
    layer, values = Dropout(0.5), torch.randn(7, 3)
    torch.manual_seed(1)
    first = layer(values)
    torch.manual_seed(1)
    assert torch.equal(layer(values), first)
    assert torch.equal(layer.eval()(values), values)


def test_gradients_pass_dropout_where_values_do() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, dtype=torch.float64, requires_grad=True)
    dropped = Dropout(0.3)(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), dropped.detach())


def test_a_window_is_scaled_to_mean_zero_and_deviation_one_and_restored(window: Callable[..., Tensor]) -> None:
    values = window(3, 40, 2) * 7 + 100
    scaled = scale_window(values)
    torch.testing.assert_close(scaled.values.mean(1), torch.zeros(3, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        scaled.values.std(1, correction=0), torch.ones(3, 2, dtype=torch.float64), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(scaled.restore(scaled.values.unsqueeze(-1)).squeeze(-1), values)


def test_a_constant_window_is_scaled_to_zero() -> None:
    assert scale_window(torch.full((1, 10, 1), 5.0)).values.abs().max() == 0
