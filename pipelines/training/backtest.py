"""Backtest an exported model on held-out origins with the serving code, so that scores apply to issued forecasts."""

from __future__ import annotations

import numpy as np

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.scores import Backtest, Evidence, Yardstick, score
from forecast.runtime.model import ServedModel
from forecast.runtime.smoke_test import SmokeTest
from pipelines.preparation.windows import Windows


def evidence_of(
    model: ServedModel, windows: Windows, yardstick: Yardstick, config: DatasetConfig, tested: SmokeTest
) -> Evidence:
    """Backtest a model on windows and score the result."""
    result = backtest(model, windows, yardstick)
    name, version = model.manifest.model_name, model.manifest.model_version
    return score(name, version, windows.digest, result, config.targets, config.horizons, tested)


def backtest(model: ServedModel, windows: Windows, yardstick: Yardstick) -> Backtest:
    """Forecast every window; actuals and forecasts are in the channels' units."""
    forecast = model.predict(windows.targets, windows.past, windows.future, windows.series)
    return Backtest(
        origins=windows.origins,
        series=windows.series,
        actual=windows.actual,
        mean=forecast.mean,
        quantiles=forecast.quantiles,
        levels=model.manifest.quantiles,
        deviations=np.asarray([yardstick.deviations[name] for name in windows.series]),
        naive_errors=np.asarray([yardstick.naive_errors[name] for name in windows.series]),
    )
