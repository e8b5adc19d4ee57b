from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard.figures.downsample import downsample


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=400), st.integers(2, 100))
def test_the_extremes_stay_in_order_and_no_more_points_than_asked_for(values: list[float], most: int) -> None:
    line = np.asarray(values, dtype=float)
    kept = downsample(line, most)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= most + 2
    if np.isfinite(line).any():
        assert np.nanmax(line[kept]) == np.nanmax(line)
        assert np.nanmin(line[kept]) == np.nanmin(line)


def test_a_long_gap_stays_a_gap() -> None:
    line = np.sin(np.arange(8760.0))
    line[4000:5000] = np.nan
    kept = downsample(line, 500)
    assert np.isnan(line[kept]).any()


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_short_line_is_kept_whole(length: int) -> None:
    assert downsample(np.zeros(length), 10).tolist() == list(range(length))
