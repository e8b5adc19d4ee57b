"""No look-ahead: values unknown at an origin influence neither its forecast nor anything fitted before it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.config.dataset import DatasetConfig
from forecast.errors import TrainingError
from forecast.evaluation.scores import Yardstick
from forecast.lake.schemas import TIME
from forecast.panel import Panel
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import Manifest
from forecast.runtime.model import ServedModel, session
from forecast.runtime.scaler import Scaler
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean, known_before
from pipelines.preparation.darts_series import fit_scaler, to_darts
from pipelines.preparation.features import future_names
from pipelines.preparation.windows import Windows, cut
from pipelines.training.backtest import backtest
from pipelines.training.calibrate import calibrate

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOOKBACK, HORIZON, STEPS = 10, 4, 70
FILLS = ("linear", "forward", "seasonal", "zero", "none")
RULES = ("mean", "sum", "last", "max", "min")
ROLES = {"load": "target", "price": "target", "wind": "past", "plan": "future"}


@dataclass(frozen=True)
class World:
    """A data set, and the same one in which everything after an origin went differently."""

    config: DatasetConfig
    rows: pl.DataFrame
    other: pl.DataFrame
    row: int
    """Of the origin."""


def make_job(fills: list[str], limit: int, resample: list[str]) -> DatasetConfig:
    channels: dict[str, dict[str, Any]] = {
        name: {"role": role, "fill": fill, "fill_limit": limit, "resample": rule}
        for (name, role), fill, rule in zip(ROLES.items(), fills, resample, strict=True)
    }
    hours = dict.fromkeys(("validation", "calibration", "holdout"), f"{HORIZON}h")
    return DatasetConfig.model_validate(
        {
            "source": {"kind": "csv", "path": "x"}, "frequency": "1h", "channels": channels, "horizons": [HORIZON],
            "lookback": LOOKBACK, "season": 5, "models": ["linear"], "splits": hours,
            "statics": {"east": {"height": 3.0}, "west": {"height": 8.0}},
        }
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn, *, resampled: bool) -> World:
    fills = draw(st.lists(st.sampled_from(FILLS), min_size=4, max_size=4))
    rules = draw(st.lists(st.sampled_from(RULES), min_size=4, max_size=4)) if resampled else ["none"] * 4
    config = make_job(fills, draw(st.sampled_from([0, 1, 3, 9, 48])), rules)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.3]))
    apart = HOUR / 3 if resampled else HOUR
    ends = {name: (STEPS + HORIZON * (role == "future")) * HOUR for name, role in ROLES.items()}
    times = [START + number * apart for number in range(ends["plan"] // apart)]

    def values(name: str) -> pl.Series:
        made = random.normal(40, 10, len(times))
        for begin in np.flatnonzero(random.random(len(times)) < density):
            made[begin : begin + random.integers(1, 12)] = np.nan
        last = ends[name] // apart - 1
        made[[0, last]], made[last + 1 :] = 1.0, np.nan  # both worlds have the same first and newest step
        return pl.Series(made).fill_nan(None)

    rows = pl.concat(
        pl.DataFrame({"series": [series] * len(times), "time": pl.Series(times, dtype=TIME)}).with_columns(
            values(name).alias(name) for name in ROLES
        )
        for series in ("east", "west")
    )
    row = draw(st.integers(LOOKBACK, STEPS - HORIZON))
    factor, share = draw(st.floats(-1e3, 1e3)), draw(st.sampled_from([0.0, 0.5, 1.0]))
    kept = pl.Series(random.random(len(rows)) < share)

    def changed(name: str) -> pl.Expr:
        known = START + (row + HORIZON * (ROLES[name] == "future")) * HOUR
        newest = START + ends[name] - apart
        value = pl.when((kept & (pl.col("time") < newest)) | (pl.col("time") == newest)).then(
            pl.col(name).fill_null(0.0) * factor + 7.0
        )
        return pl.when(pl.col("time") < known).then(name).otherwise(value).alias(name)

    other = rows.with_columns(changed(name) for name in ROLES)
    return World(config, rows, other.filter(pl.any_horizontal(pl.col(list(ROLES)).is_not_null())), row)


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and np.array_equal(ours, theirs, equal_nan=True)


def windows_at(panel: Panel, config: DatasetConfig, first: int, last: int) -> Windows | None:
    try:
        return cut(panel, config, first, last)
    except TrainingError:
        return None


@pytest.fixture
def serve(tmp_path: Path, network: Callable[..., Path]) -> Callable[[DatasetConfig, Scaler], ServedModel]:
    """Build a model whose forecasts depend on every input."""
    made = network(tmp_path / "m.onnx", lookback=LOOKBACK, horizon=HORIZON, targets=2, past=1, future=9, weight=0.7)
    loaded = session(made, threads=1)

    def make(config: DatasetConfig, scaler: Scaler) -> ServedModel:
        manifest = Manifest(
            dataset="x", model_name="m", model_version="m", trained_at=START, lookback=LOOKBACK, horizon=HORIZON,
            step_seconds=3600, targets=config.targets, past=config.past_covariates, future=future_names(config),
            statics=("height",), quantiles=config.quantiles, lower=(None, None), upper=(None, None), scaler=scaler,
            calibration=Calibration.none(2, 3, HORIZON), data_version=0, data_digest="", fitted_until=START,
            network_digest="", golden_digest="",
        )  # fmt: skip
        return ServedModel(manifest, loaded)

    return make


def own(model: ServedModel) -> Yardstick:
    """Return a yardstick with the model's own deviations."""
    deviations = {name: moments[1] for name, moments in model.manifest.scaler.targets.items()}
    return Yardstick(deviations, deviations)


def check_law(world: World, serve: Callable[[DatasetConfig, Scaler], ServedModel]) -> None:
    config, row = world.config, world.row
    ours, theirs = clean(world.rows, config), clean(world.other, config)
    assert (ours.start, ours.steps, ours.series) == (theirs.start, theirs.steps, theirs.series)

    before, otherwise = known_before(ours, config, row), known_before(theirs, config, row)
    for name in ("targets", "past", "future", "observed", "past_observed", "future_observed", "statics"):
        assert same(getattr(before, name), getattr(otherwise, name)), name

    scaler = fit_scaler(ours, config, row)
    assert fit_scaler(theirs, config, row) == scaler
    mine, others = (to_darts(panel, scaler, config, 0, row, LOOKBACK + 1) for panel in (ours, theirs))
    assert len(mine.targets) == len(others.targets)
    for feature in ("targets", "past", "future"):
        for one, two in zip(getattr(mine, feature), getattr(others, feature), strict=True):
            assert one.start_time() == two.start_time()
            assert same(one.values(), two.values())

    model = serve(config, scaler)
    calibrated = windows_at(ours, config, LOOKBACK, row)
    if calibrated is not None:
        offsets = calibrate(model, calibrated, timedelta(days=1))
        assert calibrate(model, cut(theirs, config, LOOKBACK, row), timedelta(days=1)) == offsets
        model = ServedModel(model.manifest.model_copy(update={"calibration": offsets}), model._session)
    here, there = (windows_at(panel, config, row, row + HORIZON) for panel in (ours, theirs))
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert here.series == there.series
        assert same(backtest(model, here, own(model)).quantiles, backtest(model, there, own(model)).quantiles)


LAW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LAW
@given(world=worlds(resampled=False))
def test_what_happens_after_an_origin_has_no_part_in_its_forecast(
    serve: Callable[[DatasetConfig, Scaler], ServedModel], world: World
) -> None:
    check_law(world, serve)


@LAW
@given(world=worlds(resampled=True))
def test_nor_where_rows_are_resampled(serve: Callable[[DatasetConfig, Scaler], ServedModel], world: World) -> None:
    check_law(world, serve)


@LAW
@given(world=worlds(resampled=False))
def test_what_is_scored_at_an_origin_is_what_would_have_been_issued_there(
    serve: Callable[[DatasetConfig, Scaler], ServedModel], world: World
) -> None:
    config, origin = world.config, START + world.row * HOUR
    is_known = pl.col("time") < origin
    measured = [pl.when(is_known).then(name).alias(name) for name, role in ROLES.items() if role != "future"]
    then = world.rows.filter(pl.col("time") < origin + HORIZON * HOUR).with_columns(measured)
    now = clean(world.rows, config)
    scored = windows_at(now, config, world.row, world.row + HORIZON)
    panel = clean(then, config)
    if scored is None or panel.end != origin:
        return
    model = serve(config, fit_scaler(now, config, world.row))
    issued = extend(model, panel.only(scored.series), config, HORIZON)
    assert same(issued.quantiles, backtest(model, scored, own(model)).quantiles)
