from __future__ import annotations

import pytest

from api.forecasts.selection import instant, places
from api.state.lru import Recent
from forecast.errors import NotFoundError


def test_the_least_recently_used_is_forgotten_first() -> None:
    recent = Recent[str, int](capacity=2)
    recent.keep("a", 1, 1)
    recent.keep("b", 2, 1)
    assert recent.get("a") == 1
    recent.keep("c", 3, 1)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)


def test_keeping_a_key_again_does_not_count_it_twice() -> None:
    recent = Recent[str, int](capacity=2)
    for value in range(5):
        recent.keep("a", value, 1)
    recent.keep("b", 9, 1)
    assert (recent.get("a"), recent.get("b")) == (4, 9)


def test_what_is_heavier_than_everything_is_not_kept() -> None:
    recent = Recent[str, int](capacity=2)
    recent.keep("a", 1, 1)
    recent.keep("b", 2, 3)
    assert (recent.get("a"), recent.get("b")) == (1, None)


def test_an_instant_needs_an_offset_but_forgives_a_lost_plus() -> None:
    assert instant("2024-01-01T05:30:00 05:30") == instant("2024-01-01T00:00:00Z")
    assert instant(None) is None


def test_a_long_list_of_names_is_not_written_out() -> None:
    known = [f"s{number:05d}" for number in range(5000)]
    with pytest.raises(NotFoundError) as refused:
        places(["x" * 50_000], known, "series")
    assert len(str(refused.value)) < 200
