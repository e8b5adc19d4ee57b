import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config.channels import Channel
from forecast.panel import Array
from forecast.vocabulary import Fill
from pipelines.preparation.fill import filled

NAN = float("nan")


def channel(fill: str, limit: int = 48) -> Channel:
    return Channel.model_validate({"role": "target", "fill": fill, "fill_limit": limit})


def fill_one(values: list[float], fill: str, limit: int = 48, season: int = 3, *, at_once: bool = False) -> Array:
    given_values = np.asarray(values)[None, :, None]
    return filled(given_values, np.isfinite(given_values), [channel(fill, limit)], season, at_once=at_once)[0, :, 0]


def same(ours: Array, theirs: list[float]) -> bool:
    return bool(np.array_equal(ours, theirs, equal_nan=True))


def test_a_seasonal_gap_gets_the_values_of_one_season_before() -> None:
    assert same(fill_one([1, 2, 3, NAN, NAN, 6, NAN], "seasonal"), [1, 2, 3, 1, 2, 6, 1])


def test_where_a_season_before_was_missing_too_the_one_before_it_is_taken() -> None:
    assert same(fill_one([1, 2, 3, NAN, 5, 6, NAN, NAN, 9], "seasonal"), [1, 2, 3, 1, 5, 6, 1, 5, 9])
    assert same(fill_one([1, 2, 3, *[NAN] * 8], "seasonal"), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2])


def test_a_seasonal_gap_longer_than_the_limit_stays_though_a_shorter_one_chains_across_it() -> None:
    assert same(fill_one([1, 2, 3, NAN, NAN, 6, NAN, 8], "seasonal", limit=1), [1, 2, 3, NAN, NAN, 6, 1, 8])


def test_what_has_no_season_before_it_stays_missing() -> None:
    assert same(fill_one([1, NAN, 3, NAN, NAN, 6], "seasonal"), [1, NAN, 3, 1, NAN, 6])


def test_a_channel_that_is_not_to_be_filled_keeps_its_gaps() -> None:
    assert same(fill_one([1, NAN, 3], "none"), [1, NAN, 3])


@pytest.mark.parametrize(
    ("fill", "expected"),
    [("linear", [4, 4, 4, 7]), ("forward", [4, 4, 4, 7]), ("zero", [4, 0, 0, 7]), ("none", [4, NAN, NAN, 7])],
)
def test_while_a_gap_is_open_nothing_is_read_off_its_end(fill: str, expected: list[float]) -> None:
    assert same(fill_one([4, NAN, NAN, 7], fill, at_once=True), expected)


def test_the_first_steps_of_a_gap_were_filled_before_it_was_too_long() -> None:
    assert same(fill_one([4, NAN, NAN, NAN, 7], "forward", 2), [4, NAN, NAN, NAN, 7])
    assert same(fill_one([4, NAN, NAN, NAN, 7], "forward", 2, at_once=True), [4, 4, 4, NAN, 7])


def test_each_channel_and_series_is_filled_by_itself() -> None:
    values = np.full((2, 4, 2), NAN)
    values[0, 0], values[1, 3] = [1, 2], [3, 4]
    ours = filled(values, np.isfinite(values), [channel("forward"), channel("zero", 1)], 1)
    assert same(ours[0, :, 0], [1, 1, 1, 1])
    assert same(ours[0, :, 1], [2, NAN, NAN, NAN])
    assert same(ours[1, :, 0], [NAN, NAN, NAN, 3])
    assert same(ours[1, :, 1], [NAN, NAN, NAN, 4])


def test_what_has_no_gaps_is_not_copied() -> None:
    values = np.ones((2, 3, 1))
    assert filled(values, np.isfinite(values), [channel("linear")], 1) is values


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=40),
    fill=st.sampled_from(list(Fill)),
    limit=st.integers(0, 6),
    season=st.integers(1, 5),
)
def test_what_filled_an_open_gap_is_what_filling_the_rows_until_then_gives(
    values: list[float | None], fill: Fill, limit: int, season: int
) -> None:
    known = np.asarray([NAN if value is None else value for value in values])
    at_once = fill_one(known.tolist(), fill, limit, season, at_once=True)
    for row in range(1, len(known) + 1):
        then = fill_one(known[:row].tolist(), fill, limit, season)
        assert np.isfinite(then[-1]) <= np.isfinite(at_once[row - 1])
        assert np.isnan(then[-1]) or then[-1] == at_once[row - 1]
