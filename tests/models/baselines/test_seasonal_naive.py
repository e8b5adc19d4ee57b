"""Seasonal naive repeats the season, whatever the horizon."""

import pytest
import torch

from models.baselines.seasonal_naive import SeasonalNaive, SeasonalNaiveConfig
from models.shape import WindowShape


@pytest.mark.parametrize(("season", "horizon", "gap"), [(1, 5, 0), (6, 4, 0), (6, 15, 0), (7, 20, 3), (10, 10, 0)])
def test_every_step_repeats_the_same_step_of_the_last_season(season: int, horizon: int, gap: int) -> None:
    lookback = 10
    network = SeasonalNaive(SeasonalNaiveConfig(season), WindowShape(lookback, horizon, targets=2, gap=gap))
    past = torch.randn(3, lookback, 2)
    forecast = network(past)
    assert forecast.shape == (3, horizon, 2, 1)
    for step in range(horizon):
        origin = lookback + gap + step
        while origin >= lookback:
            origin -= season
        assert torch.equal(forecast[:, step, :, 0], past[:, origin])
