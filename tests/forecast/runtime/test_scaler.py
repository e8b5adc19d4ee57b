from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forecast.errors import DataError
from forecast.panel import Panel
from forecast.runtime.scaler import Scaler

START = datetime(2024, 1, 1, tzinfo=UTC)
NAN = float("nan")


def panel(targets: np.ndarray, past: np.ndarray | None = None) -> Panel:
    """A panel of one series: [T, C] and [T, P]."""
    past = np.zeros((len(targets), 0)) if past is None else past
    return Panel(("east",), START, timedelta(hours=1), targets[None], past[None], np.isfinite(targets)[None], {})


@given(hnp.arrays(float, (30, 2), elements=st.floats(-1e6, 1e6)), st.integers(2, 30))
def test_the_rows_it_was_fitted_on_are_scaled_to_mean_zero_and_deviation_one(values: np.ndarray, last: int) -> None:
    scaled = Scaler.fit(panel(values), last).scale_targets(values[None, :last], ["east"])[0]
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-6)
    varies = values[:last].std(axis=0) > 1e-3
    assert np.allclose(scaled.std(axis=0)[varies], 1, atol=1e-6)


def test_later_rows_have_no_part_in_the_scale() -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    changed = values.copy()
    changed[30:] = 1e6
    assert Scaler.fit(panel(values), 30) == Scaler.fit(panel(changed), 30)


def test_missing_values_have_no_part_in_the_scale() -> None:
    holed = np.array([[1.0], [NAN], [3.0]])
    assert Scaler.fit(panel(holed), 3) == Scaler.fit(panel(np.array([[1.0], [3.0]])), 2)


@pytest.mark.parametrize("value", [0.0, 5.0, -0.1, 1e12, NAN])
def test_a_constant_or_empty_channel_is_scaled_to_finite_values(value: float) -> None:
    scaler = Scaler.fit(panel(np.full((40, 1), value)), 40)
    assert np.isfinite(scaler.deviations(["east"])).all()
    assert np.allclose(scaler.scale_targets(np.full((1, 3, 1), 0.0 if np.isnan(value) else value), ["east"]), 0)


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e6, 1e12])
def test_the_unit_of_a_channel_does_not_change_its_scaled_values(unit: float) -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(50, 1))
    ours, theirs = Scaler.fit(panel(values), 50), Scaler.fit(panel(values * unit), 50)
    assert np.allclose(ours.scale_targets(values[None], ["east"]), theirs.scale_targets(values[None] * unit, ["east"]))


@settings(max_examples=25, deadline=None)
@given(level=st.integers(-50, 50), seed=st.integers(0, 1000))
def test_a_repeated_value_is_forecast_at_any_level(level: int, seed: int) -> None:
    # The scale goes out and comes back: float32 inside must not show at the level of the data.
    scaler = Scaler.fit(panel(np.random.default_rng(seed).normal(level, 1, (40, 1))), 40)
    means, deviations = scaler.means(["east"]), scaler.deviations(["east"])
    values = np.full((5, 1), float(level))
    scaled = scaler.scale_targets(values[None], ["east"])[0].astype(np.float32).astype(np.float64)
    assert np.allclose(scaled * deviations + means, values, atol=1e-4)


# --- static covariates ------------------------------------------------------------------------------------------------


def stations(*statics: tuple[float, ...]) -> Panel:
    """A panel of as many series as there are static covariates given."""
    values = np.zeros((len(statics), 5, 1))
    names, observed = tuple("abc"[: len(statics)]), np.ones(values.shape, bool)
    step = timedelta(hours=1)
    return Panel(names, START, step, values, values[..., :0], observed, {}, statics=np.asarray(statics))


def test_static_covariates_are_standardised_over_the_series() -> None:
    assert Scaler.fit(stations((10.0, 1.0), (30.0, 1.0)), 5).statics == {"a": (-1.0, 0.0), "b": (1.0, 0.0)}
    assert Scaler.fit(stations((10.0,)), 5).statics == {"a": (0.0,)}


def test_series_without_static_covariates_are_named() -> None:
    with pytest.raises(DataError, match="b, c have no static covariates") as caught:
        Scaler.fit(stations((1.0, 2.0), (1.0, NAN), (NAN, NAN)), 5)
    assert caught.value.code == "training.static_missing"


def test_where_there_are_no_static_covariates_nothing_is_kept() -> None:
    assert Scaler.fit(panel(np.ones((5, 1))), 5).statics == {}
