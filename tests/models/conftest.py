"""Two small series with past and known-future covariates, and every model of the catalogue fitted to them once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries

from models import CATALOG, BuildRequest, ModelName

LOOKBACK, HORIZON, SEASON = 26, 8, 6
TINY: Mapping[ModelName, Mapping[str, Any]] = {
    ModelName.SEASONAL_NAIVE: {},
    ModelName.LINEAR: {},
    ModelName.DLINEAR: {"kernel_size": 5},
    ModelName.NLINEAR: {},
    ModelName.TIDE: {"hidden_size": 8, "decoder_output_dim": 2, "temporal_hidden_size": 4},
    ModelName.N_HITS: {"layer_widths": 8},
    ModelName.INFORMER: {"width": 16, "feed_forward": 16, "heads": 2},
    ModelName.ITRANSFORMER: {"width": 16, "feed_forward": 16, "heads": 2},
    ModelName.PATCH_TSMIXER: {"width": 8, "layers": 1, "patch_length": 8, "patch_stride": 8, "future_hidden": 4},
    ModelName.S_MAMBA: {"width": 16, "feed_forward": 16, "layers": 1},
}


@dataclass(frozen=True)
class Panel:
    """The arguments of darts' fit and predict."""

    series: list[TimeSeries]
    past_covariates: list[TimeSeries]
    future_covariates: list[TimeSeries]

    @property
    def covariates(self) -> dict[str, list[TimeSeries]]:
        return {"past_covariates": self.past_covariates, "future_covariates": self.future_covariates}


def make_series(steps: int, columns: list[str], seed: int, start: str = "2024-01-01") -> TimeSeries:
    values = np.random.default_rng(seed).standard_normal((steps, len(columns)))
    times = pd.date_range(start, periods=steps, freq="h")
    wave = np.sin(np.arange(steps)[:, None] * 2 * np.pi / SEASON)
    return TimeSeries.from_times_and_values(times, (wave + 0.3 * values).astype(np.float32), columns=columns)


def build_tiny(name: ModelName, **changes: Any) -> Any:
    torch.set_num_threads(1)  # otherwise bits depend on earlier tests: threads split sums
    request: dict[str, Any] = {
        "lookback": LOOKBACK,
        "horizon": HORIZON,
        "season": SEASON,
        "quantiles": (0.1, 0.5, 0.9),
        "seed": 7,
        "batch_size": 16,
        "max_epochs": 2,
        "options": TINY.get(name, {}),
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }
    return CATALOG[name].build(BuildRequest(**{**request, **changes}))


def forecast_values(model: Any, panel: Panel, **arguments: Any) -> np.ndarray:
    """Forecast the panel, [series, H, C * Q]."""
    forecasts = model.predict(
        HORIZON,
        series=panel.series,
        **panel.covariates,
        predict_likelihood_parameters=model.likelihood is not None,
        verbose=False,
        **arguments,
    )
    return np.stack([forecast.values() for forecast in forecasts])


@pytest.fixture(scope="session")
def panel() -> Panel:
    """Different lengths, and covariates that start earlier and end later than the targets."""
    targets, past, future = ["a", "b", "c"], ["p", "q"], ["u", "v", "w"]
    return Panel(
        series=[make_series(90, targets, 1), make_series(70, targets, 2)],
        past_covariates=[make_series(100, past, 3, "2023-12-31 20:00"), make_series(70, past, 4)],
        future_covariates=[make_series(130, future, 5, "2023-12-31"), make_series(90, future, 6)],
    )


@pytest.fixture(scope="session")
def fitted(panel: Panel) -> Callable[[ModelName], Any]:
    """Fit a model of the catalogue on first request and keep it; tests must not change it."""
    models: dict[ModelName, Any] = {}

    def fit(name: ModelName) -> Any:
        if name not in models:
            models[name] = build_tiny(name).fit(panel.series, **panel.covariates, verbose=False)
        return models[name]

    return fit


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Build an unfitted model of the catalogue, tiny."""
    return build_tiny


@pytest.fixture
def tiny_options() -> Callable[[ModelName], Mapping[str, Any]]:
    """Give the options of a tiny network, to be extended."""
    return TINY.__getitem__


@pytest.fixture
def forecast() -> Callable[..., np.ndarray]:
    return forecast_values


@pytest.fixture
def window() -> Callable[..., torch.Tensor]:
    """Draw a reproducible float64 tensor."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw
