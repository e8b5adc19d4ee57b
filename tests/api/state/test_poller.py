from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from api.state.poller import Poller
from forecast.errors import StorageError


@pytest.fixture
def poller() -> Iterator[Poller]:
    """Return a poller that is stopped after the test."""
    made = Poller()
    yield made
    made.stop()


def test_a_subscriber_that_hangs_does_not_delay_the_others(poller: Poller, wait_until: Callable[..., None]) -> None:
    begun: list[int] = []
    calls: list[int] = []
    go_on = threading.Event()

    def hang() -> None:
        begun.append(1)
        go_on.wait(20)

    poller.subscribe(hang, 0.5, at_start=False)
    poller.subscribe(lambda: calls.append(1), 0.5, at_start=False)
    poller.start()
    try:
        wait_until(lambda: len(calls) > 2)
        assert begun == [1]  # it is not called a second time while it hangs
    finally:
        go_on.set()
    wait_until(lambda: len(begun) > 1)


def test_a_subscriber_that_fails_is_logged_once_and_called_again(
    poller: Poller, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[int] = []
    calls: list[int] = []

    def fail() -> None:
        failed.append(1)
        raise StorageError("ledger.failed", "the ledger cannot be used")

    poller.subscribe(fail, 0.5)
    poller.subscribe(lambda: calls.append(1), 0.5)
    with caplog.at_level(logging.ERROR, logger="api"):
        poller.start()
        wait_until(lambda: len(failed) > 2 and len(calls) > 2)
    assert [record.getMessage() for record in caplog.records] == ["the ledger cannot be used [ledger.failed]"]


def test_every_subscriber_shares_one_thread_as_long_as_none_is_slow(
    poller: Poller, wait_until: Callable[..., None]
) -> None:
    threads: list[str] = []
    for _ in range(4):
        poller.subscribe(lambda: threads.append(threading.current_thread().name), 0.5, at_start=False)
    poller.start()
    wait_until(lambda: len(threads) >= 8)
    assert len(set(threads)) == 1
