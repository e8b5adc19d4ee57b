"""The short form of benchmarks/fuzz: some requests of every kind to every route, the same ones each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from api.limits import Limits
from benchmarks.fuzz.fuzzer import LONGEST_SECONDS, Fuzzer
from forecast.ledger.keys import Scope
from pipelines.forecasting.issue import issue

if TYPE_CHECKING:
    import httpx

    from forecast.installation import Installation
    from forecast.runtime.manifest import Manifest

EACH = 12


@pytest.fixture
def fuzzer(
    home: Installation,
    crowned: Callable[..., Manifest],
    serve: Callable[..., httpx.Client],
    make_key: Callable[..., str],
) -> Iterator[Fuzzer]:
    crowned(home, "repeat_last-2")
    issue(home.dataset("tiny"))
    key = make_key(home, Scope.ADMIN)
    client = serve(home, Limits(rate_per_second=0))
    one = Fuzzer(str(client.base_url), key, home.home)
    yield one
    one.close()


@pytest.mark.slow
def test_requests_of_every_kind_to_every_route_are_answered_as_documented(fuzzer: Fuzzer) -> None:
    fuzzer.run(EACH)
    assert fuzzer.wrong == {}
    assert fuzzer.too_few_successes() == {}
    assert len(fuzzer.tallies) > 40
    for label, tally in fuzzer.tallies.items():
        assert tally.requests == EACH, label
        assert tally.longest < LONGEST_SECONDS, label
