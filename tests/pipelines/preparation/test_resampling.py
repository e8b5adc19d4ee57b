from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import DataError
from forecast.lake.schemas import TIME
from forecast.panel import Panel
from pipelines.preparation.clean import clean

START = datetime(2024, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MakeJob = Callable[..., DatasetConfig]


@pytest.fixture
def config(config_with: MakeJob) -> MakeJob:
    def make(rule: str = "mean", other: str = "none", **fields: Any) -> DatasetConfig:
        channels = {
            "load": {"role": "target", "fill": "none", "resample": rule},
            "wind": {"role": "past", "fill": "none", "resample": other},
        }
        return config_with(**{"channels": channels} | fields)

    return make


def rows(
    load: Mapping[datetime, float | None], wind: Mapping[datetime, float] | None = None, series: str = "east"
) -> pl.DataFrame:
    times = sorted({*load, *(wind or {})})
    return pl.DataFrame(
        {
            "series": [series] * len(times),
            "time": times,
            "load": [load.get(time) for time in times],
            "wind": [(wind or {}).get(time) for time in times],
        },
        schema={"series": pl.String, "time": TIME, "load": pl.Float64, "wind": pl.Float64},
    )


def every(minutes: float, values: Sequence[float | None], start: datetime = START) -> dict[datetime, float | None]:
    return {start + number * minutes * MINUTE: value for number, value in enumerate(values)}


def load(panel: Panel, series: int = 0) -> list[float | None]:
    return [None if np.isnan(value) else value for value in panel.targets[series, :, 0].tolist()]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("mean", [2.5, 6.5]), ("sum", [10, 26]), ("last", [4, 8]), ("max", [4, 8]), ("min", [1, 5]), ("none", [1, 5])],
)
def test_the_rows_of_a_step_become_one_value(config: MakeJob, rule: str, expected: list[float]) -> None:
    other = "none" if rule != "none" else "mean"
    panel = clean(rows(every(15, [1, 2, 3, 4, 5, 6, 7, 8])), config(rule, other))
    assert load(panel) == expected
    assert panel.observed[0, :, 0].all()
    assert (panel.start, panel.step) == (START, timedelta(hours=1))


def test_rows_may_lie_anywhere_within_a_step_and_missing_values_have_no_part_in_it(config: MakeJob) -> None:
    values = {START + minute * MINUTE: value for minute, value in ((7, 1.0), (33.5, None), (59, 3.0), (61, 9.0))}
    values |= every(1, [9.0] * 58, START + 62 * MINUTE)
    assert load(clean(rows(values), config("mean"))) == [2, 9]
    assert load(clean(rows(values), config("sum"))) == [4, 531]


@pytest.mark.parametrize("rule", ["mean", "sum", "last", "max", "min"])
def test_a_step_without_any_value_is_missing_and_never_zero(config: MakeJob, rule: str) -> None:
    panel = clean(rows(every(30, [1, 1, None, None, 2, 2])), config(rule))
    assert load(panel)[1] is None
    assert panel.observed[0, :, 0].tolist() == [True, False, True]


def test_a_channel_without_a_rule_takes_the_row_on_the_grid(config: MakeJob) -> None:
    wind = {START: 5.0, START + 15 * MINUTE: 6.0, START + 75 * MINUTE: 7.0}
    panel = clean(rows(every(15, range(8)), wind), config("mean", "none"))
    assert panel.past[0, 0, 0] == 5
    assert np.isnan(panel.past[0, 1, 0])


# --- the newest step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "steps"), [(8, 2), (9, 2), (11, 2), (12, 3)])
def test_the_newest_step_counts_once_its_last_row_has_come(config: MakeJob, count: int, steps: int) -> None:
    assert load(clean(rows(every(15, [1.0] * count)), config("sum"))) == [4.0] * steps


def test_rows_that_lie_a_step_apart_are_whole_steps_at_once(config: MakeJob) -> None:
    assert load(clean(rows(every(60, [1, 2, 3])), config("mean"))) == [1, 2, 3]


def test_a_step_that_is_not_over_for_one_series_is_missing_there_alone(config: MakeJob) -> None:
    panel = clean(pl.concat([rows(every(15, [1.0] * 8)), rows(every(15, [1.0] * 6), series="west")]), config("sum"))
    assert load(panel) == [4, 4]
    assert load(panel, 1) == [4, None]


def test_one_row_alone_tells_no_step(config: MakeJob) -> None:
    with pytest.raises(DataError) as caught:
        clean(rows({START: 1.0}), config("mean"))
    assert caught.value.code == "history.empty"


# --- grids ------------------------------------------------------------------------------------------------------------


def test_steps_begin_at_full_hours_of_the_wall_in_zones_half_an_hour_from_utc(config: MakeJob) -> None:
    values = every(15, range(8), datetime(2024, 1, 1, 5, tzinfo=ZoneInfo("Asia/Kolkata")).astimezone(UTC))
    panel = clean(rows(values), config("last", zone="Asia/Kolkata"))
    assert panel.start.astimezone(ZoneInfo("Asia/Kolkata")).time().isoformat() == "05:00:00"
    assert load(panel) == [3, 7]


def test_earlier_rows_do_not_move_the_grid(config: MakeJob) -> None:
    values = every(20, range(12), START + 10 * MINUTE)
    whole, later = clean(rows(values), config("mean")), clean(rows(dict(list(values.items())[1:])), config("mean"))
    assert whole.start == later.start == START
    assert load(whole)[1:] == load(later)[1:]


@pytest.mark.parametrize(("day", "hours"), [(date(2024, 3, 31), 23), (date(2024, 10, 27), 25), (date(2024, 5, 5), 24)])
def test_days_are_those_of_the_zone_however_long_stored_as_midnight_utc(config: MakeJob, day: date, hours: int) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    values = every(60, [1.0] * (hours + 24), midnight)
    short = dict.fromkeys(("validation", "calibration", "holdout"), "9d")
    made = config("sum", frequency="1d", zone="Europe/Berlin", horizons=[2], lookback=2, season=1, splits=short)
    panel = clean(rows(values), made)
    assert panel.start == datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert load(panel) == [hours, 24]


def test_weeks_begin_on_mondays(config: MakeJob) -> None:
    short = dict.fromkeys(("validation", "calibration", "holdout"), "9w")
    made = config("sum", frequency="1w", horizons=[2], lookback=2, season=1, splits=short)
    panel = clean(rows(every(24 * 60, [1.0] * 11, datetime(2024, 1, 3, tzinfo=UTC))), made)
    assert panel.start == START
    assert load(panel) == [5]


def test_where_nothing_is_resampled_rows_off_the_grid_are_reported(config: MakeJob) -> None:
    with pytest.raises(DataError, match="1 rows are not a multiple of 1h") as caught:
        clean(rows({START: 1.0, START + 90 * MINUTE: 2.0}), config("none"))
    assert caught.value.code == "history.off_grid"
