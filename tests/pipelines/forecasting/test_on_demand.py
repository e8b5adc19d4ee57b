from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.errors import DataError
from forecast.lake.schemas import TIME
from forecast.runtime.calibration import Calibration
from forecast.runtime.model import load
from pipelines.forecasting.on_demand import check, from_columns, from_rows
from pipelines.forecasting.recursion import extend
from pipelines.preparation.calendar_cache import CalendarMemory
from pipelines.preparation.clean import clean
from pipelines.preparation.features import known_future
from pipelines.sources.request_body import from_json

if TYPE_CHECKING:
    from forecast.config.dataset import DatasetConfig
    from forecast.panel import Panel
    from forecast.runtime.manifest import Manifest
    from forecast.runtime.model import ServedModel

START = datetime(2024, 3, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
BAND = Calibration(
    group=24, quantile_offsets=(((-1.0, 0.0, 1.0), (-0.5, 0.0, 0.5)),), mean_offsets=((0.1, 0.2),), period=24
)
TRAINED = ("east", "west")


@pytest.fixture
def config(config_with: Callable[..., DatasetConfig]) -> DatasetConfig:
    return config_with(zone="Europe/Berlin", holidays="DE", frequency="1h")


@pytest.fixture
def model(tmp_path: Path, config: DatasetConfig, store_model: Callable[..., Manifest]) -> ServedModel:
    store_model(tmp_path / "models" / "m", config, weight=0.7, calibration=BAND)
    return load(tmp_path / "models" / "m")


def columns(rows: int, seed: int = 0) -> dict[str, dict[str, list[float | None]]]:
    random = np.random.default_rng(seed)
    return {
        name: {
            "load": random.gamma(4, 10, rows).tolist(),
            "price": random.normal(30, 20, rows).tolist(),
            "wind": random.gamma(2, 3, rows).tolist(),
        }
        for name in TRAINED
    }


def stored(series: dict[str, dict[str, list[float | None]]], start: datetime) -> pl.DataFrame:
    """The same values as rows of the lake."""
    frames = [
        pl.DataFrame(
            {
                "series": [name] * len(values["load"]),
                "time": pl.Series([start + row * HOUR for row in range(len(values["load"]))], dtype=TIME),
                **{channel: pl.Series(numbers, dtype=pl.Float64) for channel, numbers in values.items()},
            }
        )
        for name, values in series.items()
    ]
    return pl.concat(frames)


def agree(mine: Panel, theirs: Panel) -> bool:
    arrays = ("targets", "past", "observed", "past_observed", "future", "future_observed", "statics")
    pairs = [(getattr(mine, name).astype(float), getattr(theirs, name).astype(float)) for name in arrays]
    same = (mine.series, mine.start, mine.steps) == (theirs.series, theirs.start, theirs.steps)
    return same and all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_columns_give_the_panel_and_the_forecast_of_the_same_rows_in_the_lake(
    config: DatasetConfig, model: ServedModel, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(48, 90))
    series = columns(rows, data.draw(st.integers(0, 5)))
    start = START + HOUR * data.draw(st.integers(0, 10_000))
    for _ in range(data.draw(st.integers(0, 6))):  # gaps of any place and length, also at the ends
        numbers = series[data.draw(st.sampled_from(TRAINED))][data.draw(st.sampled_from(["load", "price", "wind"]))]
        at = data.draw(st.integers(0, rows - 1))
        for row in range(at, min(at + data.draw(st.integers(1, 12)), rows)):
            numbers[row] = None
    horizon = data.draw(st.sampled_from([1, 24, 60]))
    panel = clean(stored(series, start), config)
    mine = from_columns(start, series, {}, config, TRAINED)
    assert agree(mine, panel)
    try:
        expected = extend(model, panel, config, horizon)
    except DataError as error:
        with pytest.raises(DataError, match=re.escape(str(error))):
            extend(model, mine, config, horizon)
        return
    made = extend(model, mine, config, horizon)
    assert np.array_equal(made.mean, expected.mean)
    assert np.array_equal(made.quantiles, expected.quantiles)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001 - made aware below
    count=st.integers(1, 3000),
    step=st.sampled_from([timedelta(minutes=15), HOUR, timedelta(hours=6), timedelta(days=1), timedelta(days=7)]),
)
def test_the_calendar_from_memory_is_the_calendar(
    config: DatasetConfig, start: datetime, count: int, step: timedelta
) -> None:
    begin = start.replace(tzinfo=UTC, microsecond=0)
    memory = CalendarMemory()
    for _ in range(2):
        # Where a row lies in an array decides which instructions take its sine: the last bit may differ.
        np.testing.assert_allclose(
            memory(begin, step, count, config), known_future(begin, step, count, config), 0, 5e-16
        )


def test_rows_give_the_panel_of_the_same_rows_in_the_lake(config: DatasetConfig) -> None:
    series = columns(60)
    rows = stored(series, START)
    records = rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).rename({"series": "site"}).to_dicts()
    assert agree(from_rows(from_json(records[::-1], config, "tiny"), config), clean(rows, config))


def test_covariates_known_beforehand_are_taken_from_the_history_and_from_what_lies_ahead(
    config_with: Callable[..., DatasetConfig],
) -> None:
    channels = {
        "load": {"role": "target"}, "wind": {"role": "past"}, "plan": {"role": "future", "fill": "none"},
    }  # fmt: skip
    config = config_with(channels=channels)
    random = np.random.default_rng(0)
    message = {name: random.normal(size=80).tolist() for name in channels}
    history = {"east": {name: values[:60] for name, values in message.items()}}
    mine = from_columns(START, history, {"east": {"plan": message["plan"][60:]}}, config, TRAINED)
    rows = pl.DataFrame(
        {
            "series": ["east"] * 80,
            "time": pl.Series([START + row * HOUR for row in range(80)], dtype=TIME),
            **{name: values if name == "plan" else [*values[:60], *[None] * 20] for name, values in message.items()},
        }
    )
    theirs = clean(rows, config)
    assert agree(mine, theirs)
    assert mine.future.shape == (1, 80, 1)


def without(channel: str) -> Callable[[dict[str, Any]], None]:
    return lambda series: [values.pop(channel) for values in series.values()] and None


def put(value: float | None, row: int) -> Callable[[dict[str, Any]], None]:
    return lambda series: series["west"]["load"].__setitem__(row, value)


@pytest.mark.parametrize(
    ("spoil", "code", "place"),
    [
        (without("wind"), "history.missing_channel", "history.series.east"),
        (lambda series: series["west"].update(wnd=[1.0] * 50), "history.unknown_channel", "history.series.west"),
        (lambda series: series.update(north=series["west"]), "history.unknown_series", "history"),
        (lambda series: series["west"]["load"].pop(), "history.uneven", "49 to 50"),
        (put(-3.0, 17), "history.out_of_range", "history.series.west.load[17]"),
        (lambda series: [values.update({n: [] for n in values}) for values in series.values()], "history.empty", ""),
        (
            lambda series: [values.update({n: [None] * 50 for n in values}) for values in series.values()],
            "history.empty",
            "",
        ),
    ],
)
def test_a_history_that_is_not_of_the_data_set_is_refused_with_its_place(
    config: DatasetConfig, spoil: Callable[[dict[str, Any]], None], code: str, place: str
) -> None:
    series = columns(50)
    spoil(series)
    with pytest.raises(DataError) as caught:
        from_columns(START, series, {}, config, TRAINED)
    assert caught.value.code == code
    assert place in caught.value.fact
    assert "north" not in str(caught.value)
    assert "wnd" not in str(caught.value)


@pytest.mark.parametrize("year", [1, 1899, 2200, 9999])
def test_a_history_of_no_plausible_time_is_refused(config: DatasetConfig, year: int) -> None:
    with pytest.raises(DataError) as caught:
        from_columns(datetime(year, 12, 31, 23, tzinfo=UTC), columns(50), {}, config, TRAINED)
    assert caught.value.code == "history.implausible_time"


@pytest.mark.parametrize(
    ("future", "code"),
    [({"north": {}}, "future.unknown_series"), ({"east": {"wind": [1.0]}}, "future.unknown_channel")],
)
def test_what_lies_ahead_must_be_known_beforehand(config: DatasetConfig, future: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        from_columns(START, columns(50), future, config, TRAINED)
    assert caught.value.code == code


def test_a_model_takes_no_history_that_is_short_or_between_its_steps(config: DatasetConfig, model: ServedModel) -> None:
    panel = from_columns(START, columns(50), {}, config, TRAINED)
    check(panel, model.manifest, config, START + 1000 * HOUR)
    for wrong, code in (
        (replace(panel, start=panel.start + timedelta(minutes=7)), "history.off_grid"),
        (from_columns(START, columns(47), {}, config, TRAINED), "forecast.short_history"),
    ):
        with pytest.raises(DataError) as caught:
            check(wrong, model.manifest, config, START + 1000 * HOUR)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"time": "noon"}, "ingest.malformed_time"),
        ({"time": "2024-03-01T05:17:00Z"}, "ingest.off_grid"),
        ({"load": float("nan")}, "ingest.not_finite"),
        ({"load": "many"}, "ingest.not_a_number"),
        ({"load": -1.0}, "ingest.out_of_range"),
        ({"site": None}, "ingest.null_key"),
    ],
)
def test_a_row_that_would_be_put_aside_is_refused(config: DatasetConfig, change: dict[str, Any], code: str) -> None:
    rows = stored(columns(60), START).with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    records = rows.rename({"series": "site"}).to_dicts()
    records[7] |= change
    with pytest.raises(DataError) as caught:
        from_rows(from_json(records, config, "tiny"), config)
    assert caught.value.code == code
    message = str(next(iter(change.values())))
    assert message in {"None", "nan", "-1.0"} or message not in str(caught.value)
