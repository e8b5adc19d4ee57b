"""Rows that tell only some channels: united value by value, in whatever order they come."""

from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.lake.observations import Observations
from forecast.lake.schemas import TIME
from forecast.vocabulary import Conflicts

HOUR = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[float | None, float | None]


def rows(*loads_and_prices: Row, version: int | None = None) -> pl.DataFrame:
    """One row per tuple (load, price), at the same hour of other series."""
    return pl.DataFrame(
        {
            "series": [f"s{number}" for number in range(len(loads_and_prices))],
            "time": pl.Series([HOUR] * len(loads_and_prices), dtype=TIME),
            "version": pl.Series([version] * len(loads_and_prices), dtype=pl.Int64),
            "load": pl.Series([load for load, _ in loads_and_prices], dtype=pl.Float64),
            "price": pl.Series([price for _, price in loads_and_prices], dtype=pl.Float64),
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Observations:
    return Observations(tmp_path / "lake", tmp_path, "tiny", ("load", "price"))


def values(table: Observations) -> list[Row]:
    return table.read().select("load", "price").rows()


@pytest.mark.parametrize("conflicts", Conflicts)
def test_a_null_keeps_the_stored_value(table: Observations, conflicts: Conflicts) -> None:
    table.merge(rows((1.0, None), (None, 5.0)), conflicts=conflicts, partial=True)
    count = table.merge(rows((None, 2.0), (4.0, None)), conflicts=conflicts, partial=True)
    assert values(table) == [(1.0, 2.0), (4.0, 5.0)]
    assert (count.changed, count.outdated) == (2, 0)


def test_a_replay_changes_nothing(table: Observations) -> None:
    batches = [rows((1.0, None)), rows((None, 2.0))]
    for batch in batches:
        table.merge(batch, partial=True)
    version = table.version
    for batch in batches:
        assert table.merge(batch, partial=True).unchanged == 1
    assert table.version == version


def test_an_older_version_fills_what_is_missing_and_changes_nothing_else(table: Observations) -> None:
    table.merge(rows((3.0, None), version=3), partial=True)
    count = table.merge(rows((1.0, 10.0), version=1), partial=True)
    assert values(table) == [(3.0, 10.0)]
    assert (count.changed, count.outdated) == (1, 1)
    assert table.superseded().select("load", "price").rows() == [(1.0, 10.0)]


def test_a_whole_row_may_still_say_that_there_is_no_value(table: Observations) -> None:
    table.merge(rows((1.0, 2.0)))
    table.merge(rows((1.0, None)))
    assert values(table) == [(1.0, None)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.none() | st.sampled_from([1.0, 2.0, 3.0])] * 2), min_size=2, max_size=3),
)
def test_by_digest_the_order_of_batches_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, loads_and_prices: list[Row]
) -> None:
    found = set()
    for order in permutations(loads_and_prices):
        folder = tmp_path_factory.mktemp("lake")
        table = Observations(folder / "lake", folder, "tiny", ("load", "price"))
        for row in order:
            table.merge(rows(row), conflicts=Conflicts.DIGEST, partial=True)
        found.add(tuple(values(table)))
    assert len(found) == 1
