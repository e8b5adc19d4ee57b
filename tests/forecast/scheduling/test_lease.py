from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forecast.ledger import Ledger
from forecast.scheduling.lease import Lease


@dataclass
class Watch:
    """A monotonic clock that a test moves by hand."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def pair(ledger: Ledger, watch: Watch) -> tuple[Lease, Lease]:
    return Lease(ledger, "scheduler", "first", watch), Lease(ledger, "scheduler", "second", watch)


def test_one_holds_while_the_other_waits(pair: tuple[Lease, Lease], watch: Watch) -> None:
    first, second = pair
    for _ in range(20):
        assert first.hold()
        assert not second.hold()
        watch.seconds += 1


def test_when_the_holder_falls_silent_the_other_takes_over_within_five_seconds(
    pair: tuple[Lease, Lease], watch: Watch
) -> None:
    first, second = pair
    assert first.hold()
    assert not second.hold()
    silent_at = watch.seconds
    while not second.hold():
        watch.seconds += 1
    assert watch.seconds - silent_at <= 5
    assert not first.hold()


def test_a_lease_that_was_dropped_is_taken_at_once(pair: tuple[Lease, Lease]) -> None:
    first, second = pair
    assert first.hold()
    assert not second.hold()
    first.release()
    assert second.hold()


def test_who_lost_it_while_frozen_learns_so_before_doing_anything(pair: tuple[Lease, Lease], watch: Watch) -> None:
    first, second = pair
    assert first.hold()
    second.hold()
    watch.seconds += 60
    assert second.hold()
    assert not first.hold()
    first.release()  # it does not hold the lease any more
    assert second.hold()


def test_two_that_find_a_silent_holder_do_not_both_take_over(ledger: Ledger, watch: Watch) -> None:
    Lease(ledger, "scheduler", "dead", watch).hold()
    others = [Lease(ledger, "scheduler", f"other {n}", watch) for n in range(4)]
    for other in others:
        assert not other.hold()
    watch.seconds += 10
    assert [other.hold() for other in others].count(True) == 1


def test_leases_of_other_names_are_others(ledger: Ledger, watch: Watch) -> None:
    assert Lease(ledger, "scheduler", "a", watch).hold()
    assert Lease(ledger, "something else", "b", watch).hold()
