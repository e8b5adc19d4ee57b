"""Covariates that the user knows: beforehand (role "future"), and for good (statics), from rows to the forecast."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.evaluation.scores import Yardstick
from forecast.installation import Installation
from forecast.lake.schemas import TIME
from forecast.panel import Panel
from forecast.runtime.calibration import Calibration
from forecast.runtime.manifest import MANIFEST, Manifest
from forecast.runtime.model import ServedModel, load, session
from forecast.runtime.scaler import Scaler
from pipelines.forecasting.inputs import fits, forecastable
from pipelines.forecasting.recursion import extend
from pipelines.preparation.clean import clean, missing_counts
from pipelines.preparation.darts_series import fit_scaler, to_darts
from pipelines.preparation.features import FUTURE_FEATURES, future_covariates, future_names
from pipelines.preparation.windows import cut
from pipelines.training.backtest import backtest

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEPS, LOOKBACK, HORIZON = 400, 48, 24
NAN = float("nan")
MakeJob = Callable[..., DatasetConfig]
MakeRows = Callable[..., pl.DataFrame]
STATICS = {"east": {"height": 10.0, "area": 5.0}, "west": {"height": 30.0, "area": 5.0}}


@pytest.fixture
def config(config_with: MakeJob) -> MakeJob:
    def make(fill: str = "forward", limit: int = 6, **fields: Any) -> DatasetConfig:
        channels = {
            "load": {"role": "target", "lower": 0},
            "price": {"role": "target"},
            "wind": {"role": "past"},
            "plan": {"role": "future", "fill": fill, "fill_limit": limit},
        }
        return config_with(**{"channels": channels, "statics": STATICS} | fields)

    return make


@pytest.fixture
def rows(tiny_rows: MakeRows) -> MakeRows:
    """Rows as the lake has them, the plan known ``ahead`` steps beyond the targets."""

    def make(ahead: int = HORIZON, steps: int = STEPS) -> pl.DataFrame:
        known = tiny_rows(steps + ahead).rename({"site": "series"})
        known = known.with_columns(pl.col("time").dt.replace_time_zone("UTC").cast(TIME))
        plan = np.random.default_rng(4).normal(100, 20, len(known))
        measured = pl.col("time") < START + steps * HOUR
        return known.with_columns(pl.when(measured).then(pl.col("load", "price", "wind")), plan=pl.Series(plan))

    return make


# --- the panel --------------------------------------------------------------------------------------------------------


def test_the_grid_ends_at_the_newest_measured_row_and_the_plan_reaches_beyond(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(30), config())
    assert (panel.steps, panel.end) == (STEPS, START + STEPS * HOUR)
    assert panel.future.shape == panel.future_observed.shape == (2, STEPS + 30, 1)
    assert panel.future_observed.all()


def test_rows_that_tell_nothing_do_not_lengthen_the_grid(config: MakeJob, rows: MakeRows) -> None:
    known = rows(0)
    blank = known.with_columns(
        pl.col("time") + 48 * HOUR, *(pl.lit(None, pl.Float64).alias(n) for n in known.columns[2:])
    )
    assert clean(pl.concat([known, blank.filter(pl.col("time") > known["time"].max())]), config()).steps == STEPS


def test_gaps_in_the_plan_are_filled_and_counted_like_others(config: MakeJob, rows: MakeRows) -> None:
    gap = pl.col("time").is_between(START + 5 * HOUR, START + 7 * HOUR)
    known = rows().with_columns(pl.when(~gap).then("plan").alias("plan"))
    panel = clean(known, config())
    assert panel.filled == {"load": 0, "price": 0, "wind": 0, "plan": 6}
    assert (panel.future[:, 5:8] == panel.future[:, 4:5]).all()
    assert not panel.future_observed[:, 5:8].any()
    assert missing_counts(known, config()) == (panel.filled, dict.fromkeys(panel.filled, 0))
    assert missing_counts(known, config(limit=2))[1] == {"load": 0, "price": 0, "wind": 0, "plan": 6}


def test_some_series_of_a_panel_keep_their_own_values(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(), config())
    west = panel.only(["west"])
    assert west.series == ("west",)
    assert west.statics.tolist() == [[30.0, 5.0]]
    for name in ("targets", "past", "future", "observed", "past_observed", "future_observed"):
        assert np.array_equal(getattr(west, name), getattr(panel, name)[1:])


# --- features ---------------------------------------------------------------------------------------------------------


def test_the_plan_comes_after_the_calendar_in_its_own_unit(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(), config())
    features = future_covariates(panel, config(), STEPS - 5, STEPS + HORIZON)
    assert future_names(config()) == (*FUTURE_FEATURES, "plan")
    assert features.shape == (2, 5 + HORIZON, len(FUTURE_FEATURES) + 1)
    assert np.abs(features[..., :-1]).max() <= 1
    assert np.array_equal(features[..., -1], panel.future[:, STEPS - 5 :, 0])


@pytest.mark.parametrize(
    ("fill", "limit", "expected"),
    [("forward", 3, 1.0), ("linear", 3, 1.0), ("zero", 3, 0.0), ("forward", 2, NAN), ("none", 3, NAN)],
)
def test_values_unknown_ahead_are_filled_by_their_policy_within_its_limit(
    config: MakeJob, rows: MakeRows, fill: str, limit: int, expected: float
) -> None:
    known = rows(2).with_columns(plan=pl.lit(1.0))
    made = config(fill, limit)
    ahead = future_covariates(clean(known, made), made, STEPS, STEPS + 5)[0, :, -1]
    assert np.array_equal(ahead, [1, 1, expected, expected, expected], equal_nan=True)


def test_a_season_ahead_repeats_the_one_before(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(0), config("seasonal", 48))
    ahead = future_covariates(panel, config("seasonal", 48), STEPS, STEPS + 48)[..., -1]
    assert np.array_equal(ahead[:, :24], panel.future[:, -24:, 0])
    assert np.array_equal(ahead[:, 24:], ahead[:, :24])


def test_the_plan_is_scaled_by_the_fitted_rows_and_the_calendar_is_not(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(), config())
    scaler = fit_scaler(panel, config(), 200)
    features = future_covariates(panel, config(), 0, 200)
    scaled = scaler.scale_future(features, panel.series)
    assert np.array_equal(scaled[..., :-1], features[..., :-1])
    assert np.allclose(scaled[..., -1].mean(axis=1), 0)
    assert np.allclose(scaled[..., -1].std(axis=1), 1)


# --- darts ------------------------------------------------------------------------------------------------------------


def test_darts_gets_everything_in_float32_with_names(config: MakeJob, rows: MakeRows) -> None:
    panel = clean(rows(), config())
    made = to_darts(panel, fit_scaler(panel, config(), 200), config(), 0, 200, LOOKBACK + HORIZON)
    assert made.past is not None
    for kept, names in (
        (made.targets, config().targets),
        (made.past, ("wind",)),
        (made.future, future_names(config())),
    ):
        assert [list(series.components) for series in kept] == [list(names)] * 2
        assert {series.dtype for series in kept} == {np.dtype(np.float32)}
        assert {len(series) for series in kept} == {200}
    statics = [series.static_covariates for series in made.targets]
    assert [frame.columns.tolist() for frame in statics] == [["height", "area"]] * 2
    assert [frame.to_numpy().tolist() for frame in statics] == [[[-1, 0]], [[1, 0]]]
    assert {frame.to_numpy().dtype for frame in statics} == {np.dtype(np.float32)}


def test_no_stretch_crosses_a_gap_in_any_covariate(config: MakeJob, rows: MakeRows) -> None:
    made = config(limit=0)
    known = rows().with_columns(pl.when(pl.col("time") != START + 100 * HOUR).then("plan").alias("plan"))
    panel = clean(known, made)
    stretches = to_darts(panel, fit_scaler(panel, made, 200), made, 0, 200, LOOKBACK)
    assert [len(series) for series in stretches.targets] == [100, 99] * 2


def test_a_series_without_static_covariates_is_reported_where_others_have_them(config: MakeJob, rows: MakeRows) -> None:
    lacking = config(statics={"east": STATICS["east"]})
    with pytest.raises(DataError, match="west has no static covariates") as caught:
        fit_scaler(clean(rows(), lacking), lacking, 200)
    assert caught.value.code == "training.static_missing"


# --- a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, train_model: Callable[[DatasetConfig, Panel, str, Path], ServedModel]
) -> Callable[[DatasetConfig, Panel, str], ServedModel]:
    kept: dict[str, ServedModel] = {}

    def make(config: DatasetConfig, panel: Panel, name: str) -> ServedModel:
        if name not in kept:
            kept[name] = train_model(config, panel, name, tmp_path_factory.mktemp("models") / name)
        return kept[name]

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_network_reads_static_and_known_covariates_from_training_to_the_served_forecast(
    config: MakeJob, rows: MakeRows, trained: Callable[[DatasetConfig, Panel, str], ServedModel]
) -> None:
    made = config(
        models=["tide"],
        options={"tide": {"hidden_size": 4, "decoder_output_dim": 2, "temporal_hidden_size": 4}},
        training={"max_epochs": 1, "budget": "3s", "stride": 8},
    )
    panel = clean(rows(), made)
    model = trained(made, panel, "tide")
    assert "static_covariates" in model.inputs
    assert model.manifest.statics == ("height", "area")
    assert model.manifest.future == future_names(made)

    issued = extend(model, panel, made, HORIZON)
    assert np.isfinite(issued.quantiles).all()
    planned = replace(panel, future=panel.future + np.where(np.arange(STEPS + HORIZON) >= STEPS, 50.0, 0.0)[:, None])
    assert not np.array_equal(extend(model, planned, made, HORIZON).quantiles, issued.quantiles)

    scaler = model.manifest.scaler.model_copy(update={"statics": {"east": (9.0, 9.0), "west": (1.0, 0.0)}})
    other = ServedModel(model.manifest.model_copy(update={"scaler": scaler}), model._session)
    moved = extend(other, panel, made, HORIZON)
    assert not np.array_equal(moved.quantiles[0], issued.quantiles[0])
    assert np.array_equal(moved.quantiles[1], issued.quantiles[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_scored_with_a_plan_is_what_is_issued_with_it(
    config: MakeJob, rows: MakeRows, trained: Callable[[DatasetConfig, Panel, str], ServedModel]
) -> None:
    made = config(models=["linear"])
    panel = clean(rows(0), made)
    model = trained(made, panel, "linear")
    yardstick = Yardstick.fit(panel, model.manifest.scaler, made.season, STEPS - HORIZON)
    scored = backtest(model, cut(panel, made, STEPS - HORIZON, STEPS), yardstick)
    origin = START + (STEPS - HORIZON) * HOUR
    measured = pl.when(pl.col("time") < origin).then(pl.col("load", "price", "wind"))
    then = clean(rows(0).with_columns(measured), made)
    assert then.end == origin
    assert np.allclose(extend(model, then, made, HORIZON).quantiles, scored.quantiles, atol=1e-4)


@pytest.fixture
def repeating(config: MakeJob, tmp_path: Path, network: Callable[..., Path]) -> ServedModel:
    """A model of the tiny job with a plan; its forecasts depend on every input."""
    made = config()
    file = network(tmp_path / "n.onnx", lookback=LOOKBACK, horizon=HORIZON, targets=2, past=1, future=9, weight=0.5)
    moments = dict.fromkeys(("east", "west"), ((40.0, 40.0), (10.0, 10.0)))
    single = dict.fromkeys(("east", "west"), ((5.0,), (2.0,)))
    manifest = Manifest(
        dataset="tiny", model_name="m", model_version="m", trained_at=START, lookback=LOOKBACK, horizon=HORIZON,
        step_seconds=3600, targets=made.targets, past=made.past_covariates, future=future_names(made),
        quantiles=made.quantiles, lower=(0.0, None), upper=(None, None), calibration=Calibration.none(2, 3, HORIZON),
        scaler=Scaler(targets=moments, past=single, future=single), data_version=0, data_digest="",
        fitted_until=START, network_digest="", golden_digest="",
    )  # fmt: skip
    return ServedModel(manifest, session(file, threads=1))


def test_a_plan_that_ends_too_early_is_reported_with_series_channel_and_time(
    config: MakeJob, rows: MakeRows, repeating: ServedModel
) -> None:
    known = rows().filter((pl.col("series") == "east") | (pl.col("time") < START + (STEPS + 10) * HOUR))
    with pytest.raises(DataError, match="west has no plan from 2024-01-18 02:00:00") as caught:
        extend(repeating, clean(known, config()), config(), HORIZON)
    assert caught.value.code == "forecast.future_missing"
    assert "fill_limit" in caught.value.remedy
    reaching = config(limit=14)
    assert extend(repeating, clean(known, reaching), reaching, HORIZON).mean.shape == (2, HORIZON, 2)


def test_a_plan_does_not_go_on_by_itself_unless_the_job_says_how(
    config: MakeJob, rows: MakeRows, repeating: ServedModel
) -> None:
    known = rows().filter(pl.col("time") < START + (STEPS + HORIZON - 1) * HOUR)
    with pytest.raises(DataError, match="1 of the values") as caught:
        extend(repeating, clean(known, config("linear")), config("linear"), HORIZON)
    assert caught.value.code == "forecast.future_missing"
    assert extend(repeating, clean(known, config("forward")), config("forward"), HORIZON).mean.shape == (
        2,
        HORIZON,
        2,
    )


def test_a_longer_forecast_needs_a_longer_plan_and_begins_like_a_shorter_one(
    config: MakeJob, rows: MakeRows, repeating: ServedModel
) -> None:
    panel = clean(rows(3 * HORIZON), config())
    longest = extend(repeating, panel, config(), 3 * HORIZON)
    assert np.array_equal(extend(repeating, panel, config(), 30).quantiles, longest.quantiles[:, :30])
    with pytest.raises(DataError, match="has no plan from"):
        extend(repeating, panel, config(), 4 * HORIZON)


def test_a_series_without_a_plan_leaves_the_others_their_forecast(
    config: MakeJob, rows: MakeRows, repeating: ServedModel
) -> None:
    known = rows().filter((pl.col("series") == "east") | (pl.col("time") < START + (STEPS + 10) * HOUR))
    assert forecastable(clean(known, config()), repeating.manifest, config()).series == ("east",)


# --- manifests of before ----------------------------------------------------------------------------------------------


def test_a_manifest_from_before_there_were_such_covariates_still_loads(
    tmp_path: Path, tiny_config: DatasetConfig, store_model: Callable[..., Manifest]
) -> None:
    store_model(tmp_path / "m", tiny_config)
    file = tmp_path / "m" / MANIFEST
    text = file.read_text(encoding="utf-8")
    assert '"statics":[],' in text
    assert ',"future":{},"statics":{}' in text
    file.write_text(text.replace('"statics":[],', "").replace(',"future":{},"statics":{}', ""), encoding="utf-8")
    assert load(tmp_path / "m").manifest.scaler.future == {}


def test_a_champion_from_before_a_plan_was_given_does_not_fit_the_job(
    tiny_home: Installation, tiny_document: dict[str, Any], make_home: Callable[..., Installation]
) -> None:
    manifest = load(tiny_home.home.models / "repeat_last-1").manifest
    assert fits(manifest, tiny_home.config.datasets["tiny"])
    tiny_document["datasets"]["tiny"]["channels"]["plan"] = {"role": "future"}
    assert not fits(manifest, make_home(document=tiny_document).config.datasets["tiny"])


@pytest.mark.parametrize(("fill", "is_scored"), [("linear", False), ("forward", True)])
def test_an_origin_that_nothing_would_be_issued_at_is_not_scored(
    config: MakeJob, rows: MakeRows, fill: str, is_scored: bool
) -> None:
    # The plan of one series breaks off before the horizon of the newest origin; later rows of it are there by now.
    made, origin = config(fill), START + (STEPS - 2 * HORIZON) * HOUR
    gap = pl.col("time").is_between(origin + (HORIZON - 4) * HOUR, origin + (HORIZON + 1) * HOUR)
    broken = rows().with_columns(pl.when(gap & (pl.col("series") == "west")).then(None).otherwise("plan").alias("plan"))
    windows = cut(clean(broken, made), made, STEPS - 2 * HORIZON, STEPS - HORIZON)
    assert set(windows.origins) == {origin}
    assert set(windows.series) == ({"east", "west"} if is_scored else {"east"})
