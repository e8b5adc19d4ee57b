from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import plotly.graph_objects as go
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.evaluation.scores import Yardstick
from forecast.panel import Panel
from forecast.runtime.manifest import NETWORK, Manifest
from forecast.runtime.model import ServedModel, load
from forecast.runtime.smoke_test import smoke_test
from pipelines.preparation.darts_series import fit_scaler
from pipelines.preparation.windows import Windows, cut
from pipelines.tracking.figures import diagnose
from pipelines.training.backtest import evidence_of

Case = tuple[ServedModel, Windows, Panel, DatasetConfig, Path]
BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2024, 3, 16, tzinfo=UTC)  # the clock changes on the 31st, within the holdout


@pytest.fixture
def case(
    config_with: Callable[..., DatasetConfig],
    tiny_panel: Callable[..., Panel],
    store_model: Callable[..., Manifest],
    tmp_path: Path,
) -> Case:
    config = config_with(zone="Europe/Berlin")
    panel = replace(tiny_panel(config), start=SPRING)
    store_model(tmp_path / "linear-1", config)
    return load(tmp_path / "linear-1"), cut(panel, config, 328, 400), panel, config, tmp_path / "linear-1"


def figures(case: Case, windows: Windows) -> dict[str, go.Figure]:
    model, _, panel, config, folder = case
    yardstick = Yardstick.fit(panel, fit_scaler(panel, config, 300), config.season, 300)
    evidence = evidence_of(model, windows, yardstick, config, smoke_test(model, folder / NETWORK))
    return dict(diagnose(model, windows, panel, config, evidence))


def forecast_of(case: Case) -> Any:
    model, windows, *_ = case
    return model.predict(windows.targets, windows.past, windows.future, windows.series)


def test_residuals_are_drawn_at_the_hour_of_the_data_set_though_the_clock_changes(case: Case) -> None:
    model, windows, panel, *_ = case
    median = forecast_of(case).quantiles[..., model.median]
    hours = np.asarray([
        [panel.time(panel.index(origin) + lead).astimezone(BERLIN).hour for lead in range(median.shape[1])]
        for origin in windows.origins
    ])  # fmt: skip
    late = np.where(hours == 14, 10.0, 0.0)[..., None]  # one deviation of the model's scaler too little
    drawn = figures(case, replace(windows, actual=median + late))["3 residuals by hour and weekday"]
    bias = np.asarray(drawn.data[0].z)
    seen = np.isfinite(bias)
    assert seen[:, 14].any()
    assert np.allclose(bias[:, 14][seen[:, 14]], 1.0)
    assert np.allclose(np.delete(bias, 14, axis=1)[np.delete(seen, 14, axis=1)], 0.0, atol=1e-6)


def test_calibration_is_the_share_of_values_below_each_quantile(case: Case) -> None:
    _, windows, *_ = case
    quantiles = forecast_of(case).quantiles
    drawn = figures(case, replace(windows, actual=quantiles[..., 0] + 1e-6))["4 calibration"]
    groups = {trace.name: np.asarray(trace.y).tolist() for trace in drawn.data}
    assert set(groups) == {"as promised", "steps 1 to 6", "steps 7 to 24"}
    # Every quantile of a network that repeats one value is that value, and the actual values lie above it.
    assert groups["steps 1 to 6"] == groups["steps 7 to 24"] == [0.0, 0.0, 0.0]


def test_a_perfect_forecast_has_no_error_at_any_lead_time_and_the_seasonal_naive_one_has(case: Case) -> None:
    model, windows, *_ = case
    median = forecast_of(case).quantiles[..., model.median]
    drawn = figures(case, replace(windows, actual=median))["2 error by lead time"]
    errors = {trace.name: np.asarray(trace.y) for trace in drawn.data}
    assert np.allclose(errors["repeat_last"], 0.0)
    assert (errors["seasonal naive"] > 0).all()


def test_forecasts_tell_wall_times_across_a_change_of_the_clock(case: Case) -> None:
    _, windows, *_ = case
    drawn = figures(case, windows)["1 forecasts"]
    observed = [trace for trace in drawn.data if trace.name == "observed"]
    assert len(observed) == 2 * 3  # channels by origins
    across = {tuple(trace.x) for trace in observed if trace.x is not None}
    assert across
    for times in across:
        place = next(place for place, time in enumerate(times) if (time.day, time.hour) == (31, 1))
        assert times[place + 1].hour == 3, "from two to three there is nothing that day"
    evenly = [trace for trace in observed if trace.x is None]
    assert evenly
    assert all(trace.dx == 3_600_000 for trace in evenly)
    assert "80% band" in {trace.name for trace in drawn.data}


def test_unobserved_values_leave_gaps_and_no_warnings(case: Case) -> None:
    _, windows, *_ = case
    gaps = windows.actual.copy()
    gaps[:, 3] = np.nan
    drawn = figures(case, replace(windows, actual=gaps))
    assert np.isnan(np.asarray(drawn["2 error by lead time"].data[0].y)[3])
    assert np.isfinite(np.delete(np.asarray(drawn["2 error by lead time"].data[0].y), 3)).all()
