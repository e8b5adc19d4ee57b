from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from forecast.config.dataset import DatasetConfig
from forecast.errors import TrainingError
from forecast.panel import Panel
from pipelines.preparation.slices import Slices

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOOKBACK, HORIZON = 48, 24
MakeJob = Callable[..., DatasetConfig]


def make_panel(steps: int = 400) -> Panel:
    values = np.zeros((1, steps, 1))
    return Panel(("east",), START, HOUR, values, np.zeros((1, steps, 0)), np.ones(values.shape, bool), {})


def test_the_splits_are_measured_back_from_the_end_in_time_order(config_with: Callable[..., DatasetConfig]) -> None:
    config = config_with(splits={"validation": "2d", "calibration": "3d", "holdout": "4d"})
    slices = Slices.of(make_panel(400), config)
    assert (slices.fit, slices.validation, slices.calibration, slices.holdout) == (400 - 216, 400 - 168, 400 - 96, 400)


@pytest.mark.parametrize("steps", [0, 1, 9 * 24, 9 * 24 + LOOKBACK + HORIZON - 1])
def test_a_history_that_leaves_no_window_to_fit_on_is_reported(tiny_config: DatasetConfig, steps: int) -> None:
    with pytest.raises(TrainingError, match="one window needs 72") as caught:
        Slices.of(make_panel(steps), tiny_config)
    assert caught.value.code == "training.too_short"


def test_a_history_that_leaves_exactly_one_window_to_fit_on_is_enough(tiny_config: DatasetConfig) -> None:
    assert Slices.of(make_panel(9 * 24 + LOOKBACK + HORIZON), tiny_config).fit == LOOKBACK + HORIZON


# --- by date and by share ---------------------------------------------------------------------------------------------


def rows_of(config: DatasetConfig, steps: int = 400) -> tuple[int, int, int, int]:
    slices = Slices.of(make_panel(steps), config)
    return slices.fit, slices.validation, slices.calibration, slices.holdout


def test_a_part_may_be_a_share_of_all_rows(config_with: MakeJob) -> None:
    assert rows_of(config_with(splits={"validation": 0.1, "calibration": 0.15, "holdout": 0.2})) == (220, 260, 320, 400)


def test_a_part_may_begin_at_a_local_date_or_time(config_with: MakeJob) -> None:
    config = config_with(
        zone="America/New_York",
        splits={
            "validation": date(2024, 1, 8),
            "calibration": datetime(2024, 1, 10, 12, 30),  # noqa: DTZ001 - a wall time
            "holdout": datetime(2024, 1, 13, tzinfo=UTC),
        },
    )
    assert rows_of(config) == (7 * 24 + 5, 9 * 24 + 12 + 5 + 1, 12 * 24, 400)


def test_ways_to_tell_a_part_may_be_mixed(config_with: MakeJob) -> None:
    config = config_with(splits={"validation": 0.1, "calibration": "2d", "holdout": date(2024, 1, 15)})
    assert rows_of(config) == (14 * 24 - 48 - 40, 14 * 24 - 48, 14 * 24, 400)


def test_a_step_of_days_begins_at_the_date_itself_whatever_the_zone(config_with: MakeJob) -> None:
    config = config_with(
        zone="America/New_York", frequency="1d", horizons=[2], lookback=3, season=1,
        splits={"validation": date(2024, 1, 8), "calibration": date(2024, 1, 10), "holdout": date(2024, 1, 13)},
    )  # fmt: skip
    days = Panel(
        ("east",), START, timedelta(days=1), np.zeros((1, 20, 1)), np.zeros((1, 20, 0)), np.ones((1, 20, 1), bool), {}
    )
    assert Slices.of(days, config) == Slices(7, 9, 12, 20)


@pytest.mark.parametrize(("until", "end"), [(date(2024, 1, 16), 360), (date(2024, 3, 1), 400)])
def test_rows_from_until_on_are_unused(config_with: MakeJob, until: date, end: int) -> None:
    config = config_with(splits={"validation": "2d", "calibration": "2d", "holdout": 0.1, "until": until})
    share = round(0.1 * end)
    assert rows_of(config) == (end - share - 96, end - share - 48, end - share, end)


def test_a_part_that_begins_behind_the_rows_is_reported(config_with: MakeJob) -> None:
    config = config_with(splits={"holdout": date(2024, 2, 1)})
    with pytest.raises(TrainingError, match=r"splits\.holdout has 0 rows") as caught:
        Slices.of(make_panel(), config)
    assert caught.value.code == "training.split_too_short"


def test_a_share_of_fewer_rows_than_the_horizon_is_reported(config_with: MakeJob) -> None:
    with pytest.raises(TrainingError, match=r"splits\.calibration has 20 rows.* needs 24") as caught:
        Slices.of(make_panel(), config_with(splits={"validation": "2d", "calibration": 0.05, "holdout": "2d"}))
    assert caught.value.code == "training.split_too_short"


# --- as published -----------------------------------------------------------------------------------------------------


@pytest.fixture
def benchmark_job(config_with: MakeJob) -> MakeJob:
    def make(name: str, frequency: str = "1h") -> DatasetConfig:
        source = {"kind": "benchmark", "name": name}
        return config_with(source=source, splits={"published": True}, frequency=frequency)

    return make


def test_the_published_parts_are_taken_with_validation_in_halves(benchmark_job: MakeJob) -> None:
    assert rows_of(benchmark_job("etth1"), 17_420) == (8640, 8640 + 1440, 8640 + 2880, 14_400)
    assert rows_of(benchmark_job("exchange", "1d"), 7588) == (5311, 5311 + 380, 5311 + 760, 7588)


def test_too_few_rows_for_the_published_parts_are_reported(benchmark_job: MakeJob) -> None:
    with pytest.raises(TrainingError, match="14400 rows, but the data set has 14399") as caught:
        Slices.of(make_panel(14_399), benchmark_job("etth1"))
    assert caught.value.code == "training.not_as_published"
