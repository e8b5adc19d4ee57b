"""One thread that polls the ledger for all subscribers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from forecast.errors import ForecastError

_TICK_SECONDS = 0.5
_PATIENCE_SECONDS = 0.25
_MOST_SUBSCRIBERS = 8
_log = logging.getLogger("api")


@dataclass(slots=True)
class _Subscriber:
    look: Callable[[], None]
    ticks: int
    """Between two calls."""
    at_start: bool
    running: Future[None] | None = None
    is_failing: bool = False


class Poller:
    """Calls each subscriber again and again; an error is logged once, and the call is repeated.

    Calls run one after another. A call that takes longer than 0.25 s goes on in its own thread, and the next subscriber
    is called meanwhile; a subscriber is never called twice at the same time. So a subscriber that hangs or fails does
    not delay the others.

    >>> poller = Poller()
    >>> poller.subscribe(lambda: None, seconds=1)
    >>> poller.start(); poller.stop()
    """

    def __init__(self) -> None:
        self._subscribers: list[_Subscriber] = []
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_MOST_SUBSCRIBERS, thread_name_prefix="ledger-look")
        self._thread = threading.Thread(target=self._poll, name="ledger-poller", daemon=True)

    def subscribe(self, look: Callable[[], None], seconds: float, *, at_start: bool = True) -> None:
        """Call ``look`` with this period in seconds, a multiple of 0.5; ``at_start`` also calls it in :meth:`start`."""
        self._subscribers.append(_Subscriber(look, round(seconds / _TICK_SECONDS), at_start))

    def start(self) -> None:
        """Call the subscribers ``at_start`` in this thread, then start polling."""
        for subscriber in self._subscribers:
            if subscriber.at_start:
                _call(subscriber)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling, after the calls that run now."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown()

    def _poll(self) -> None:
        tick = 0
        while not self._stopping.wait(_TICK_SECONDS):
            tick += 1
            for subscriber in self._subscribers:
                is_running = subscriber.running is not None and not subscriber.running.done()
                if tick % subscriber.ticks == 0 and not is_running:
                    subscriber.running = self._pool.submit(_call, subscriber)
                    wait((subscriber.running,), _PATIENCE_SECONDS)


def _call(subscriber: _Subscriber) -> None:
    try:
        subscriber.look()
        subscriber.is_failing = False
    except ForecastError as error:
        if not subscriber.is_failing:
            _log.error("%s [%s]", error, error.code)
        subscriber.is_failing = True
    except Exception:  # noqa: BLE001 - a thread's boundary: an error must not end the polling
        if not subscriber.is_failing:
            _log.exception("the ledger cannot be followed")
        subscriber.is_failing = True
