"""The closed form is least squares."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from darts.utils.data import SequentialTorchTrainingDataset

from models.baselines.closed_form import TrainingBatches
from models.baselines.linear import Linear, LinearConfig
from models.darts.windows import WindowDataset
from models.shape import WindowShape

LOOKBACK, HORIZON = 12, 5


def solved(panel: Any, config: LinearConfig, size: int = 512) -> tuple[Linear, dict[str, np.ndarray]]:
    series = [target.astype(np.float64) for target in panel.series]
    future = [covariate.astype(np.float64) for covariate in panel.future_covariates]
    reference = SequentialTorchTrainingDataset(
        series, None, future, input_chunk_length=LOOKBACK, output_chunk_length=HORIZON
    )
    dataset = WindowDataset(reference)
    network = Linear(config, WindowShape(LOOKBACK, HORIZON, targets=3, future=3)).double()
    network.solve(TrainingBatches(dataset, size))
    batch = dataset.__getitems__(range(len(dataset)))
    names = ("past_target", "historic_future_covariates", "future_covariates", "future_target")
    return network, {name: getattr(batch, name).numpy() for name in names}


def level(past: np.ndarray, kind: str) -> np.ndarray:
    return past.mean(1, keepdims=True) if kind == "mean" else past[:, -1:]


def ridge_lstsq(regressors: np.ndarray, aims: np.ndarray, penalty: float) -> np.ndarray:
    """Least squares with a penalty, as rows appended to the problem."""
    size = regressors.shape[1]
    rows = np.vstack([regressors, np.sqrt(penalty) * np.eye(size)])
    solution: np.ndarray = np.linalg.lstsq(rows, np.vstack([aims, np.zeros((size, aims.shape[1]))]), rcond=None)[0]
    return solution


@pytest.mark.parametrize("kind", ["mean", "last"])
@pytest.mark.parametrize("known_future", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_the_closed_form_is_numpys_least_squares(
    panel: Any, kind: Literal["mean", "last"], known_future: bool, ridge: float
) -> None:
    network, data = solved(panel, LinearConfig(ridge=ridge, level=kind, known_future=known_future))
    past_level = level(data["past_target"], kind)
    past, aims = data["past_target"] - past_level, data["future_target"] - past_level
    base = np.broadcast_to(past_level, aims.shape)
    count = len(past)
    if known_future:
        reference = level(data["historic_future_covariates"], kind)
        before, after = data["historic_future_covariates"] - reference, data["future_covariates"] - reference
        effect = ridge_lstsq(after.reshape(-1, 3), aims.reshape(-1, 3), ridge * count * HORIZON)
        past, aims, base = past - before @ effect, aims - after @ effect, base + after @ effect
    expected = np.empty_like(aims)
    for channel in range(3):
        x, y = past[:, :, channel], aims[:, :, channel]
        weight = ridge_lstsq(x - x.mean(0), y - y.mean(0), ridge * count)
        expected[:, :, channel] = (x - x.mean(0)) @ weight + y.mean(0) + base[:, :, channel]

    tensors = [torch.from_numpy(data[name]) for name in ("past_target", "historic_future_covariates")]
    forecast = network(tensors[0], None, tensors[1], torch.from_numpy(data["future_covariates"]))
    np.testing.assert_allclose(forecast.squeeze(-1).detach().numpy(), expected, atol=1e-9)


def test_the_size_of_the_batches_does_not_matter(panel: Any) -> None:
    large, _ = solved(panel, LinearConfig())
    small, _ = solved(panel, LinearConfig(), size=7)
    torch.testing.assert_close(large.weight, small.weight, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(large.effect, small.effect, atol=1e-12, rtol=1e-9)
