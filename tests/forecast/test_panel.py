from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast.panel import Panel

START = datetime(2024, 3, 1, tzinfo=UTC)


def panel(steps: int, step: timedelta) -> Panel:
    return Panel(
        ("a",), START, step, np.zeros((1, steps, 1)), np.zeros((1, steps, 0)), np.ones((1, steps, 1), bool), {}
    )


@given(index=st.integers(-100_000, 100_000), seconds=st.sampled_from([1, 60, 900, 3600, 86_400, 604_800]))
def test_the_row_of_the_time_of_a_row_is_that_row(index: int, seconds: int) -> None:
    grid = panel(10, timedelta(seconds=seconds))
    assert grid.index(grid.time(index)) == index


def test_a_forecast_begins_one_step_after_the_last_row() -> None:
    assert panel(24, timedelta(hours=1)).end == START + timedelta(days=1)


@pytest.mark.parametrize(("minutes", "row"), [(-30, -1), (30, 0), (90, 1)])
def test_a_time_between_two_rows_belongs_to_the_earlier(minutes: int, row: int) -> None:
    assert panel(10, timedelta(hours=1)).index(START + timedelta(minutes=minutes)) == row
