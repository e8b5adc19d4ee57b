"""The service's processes are killed for real: nothing is lost, nothing is there twice, there is always a champion."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.reliability.kills import KillTest

# Some hundred processes are started; a machine that has much else to do may need many times the usual 90 s.
pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def kill_test(busy_home: Path) -> Iterator[KillTest]:
    made = KillTest(busy_home, seed=1)
    yield made
    made.close()


@pytest.mark.parametrize("count", [3, pytest.param(25, marks=pytest.mark.slow)])  # make soak: 500
def test_killed_workers_lose_nothing(kill_test: KillTest, count: int) -> None:
    kills = list(kill_test.workers(count))
    assert kills[-1].number == count
    assert [kill.first for kill in kills if kill.wrong] == []
    assert kill_test.settle() == []
    assert kills[-1].ended > 0
    assert kills[-1].issued > 0  # or they were all killed before they did anything


@pytest.mark.slow
def test_ten_times_everything_is_killed_and_nothing_is_lost(kill_test: KillTest) -> None:
    kills = list(kill_test.everything(10))
    assert [kill.first for kill in kills if kill.wrong] == []
    assert kill_test.settle() == []
    assert kills[-1].ended > 0
    assert kills[-1].acknowledged > 0
