"""Whose turn it is: a rate per sender, and a bounded number of requests at work, in all and per route."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from api.limits import Limits

_MOST_SENDERS = 10_000
FORECASTING = frozenset({
    "/v1/forecasts", "/v2/forecast", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer",
    "/invocations",
})  # fmt: skip
"""Routes that compute while one waits."""


class Rates:
    """One token bucket per sender, kept in memory; used by the event loop alone, so that nothing is locked.

    >>> now = [0.0]
    >>> rates = Rates(per_second=1, burst=2, monotonic=lambda: now[0])
    >>> [rates.wait("a"), rates.wait("a"), rates.wait("a"), rates.wait("b")]
    [0, 0, 1, 0]
    >>> now[0] = 1.0
    >>> rates.wait("a")
    0
    """

    def __init__(self, per_second: int, burst: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, sender: str) -> int:
        """Take a token, or tell in how many whole seconds there is one again."""
        if not self._per_second:
            return 0
        now = self._monotonic()
        level, then = self._buckets.get(sender, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._per_second)
        if level < 1:
            self._buckets[sender] = (level, now)
            return math.ceil((1 - level) / self._per_second)
        if len(self._buckets) >= _MOST_SENDERS and sender not in self._buckets:
            self._forget(now)
        self._buckets[sender] = (level - 1, now)
        return 0

    def _forget(self, now: float) -> None:
        full = self._burst / self._per_second
        self._buckets = {key: held for key, held in self._buckets.items() if now - held[1] < full}
        while len(self._buckets) >= _MOST_SENDERS:  # all of them are busy: the one that came first is forgotten
            del self._buckets[next(iter(self._buckets))]


class Admission:
    """Lets a bounded number of requests work at once; the others wait a moment in order, then are refused.

    Used by the event loop alone.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_requests
        self._most_per_route = limits.max_requests_per_route
        self._most_forecasts = min(limits.max_forecasts, limits.max_requests_per_route)
        self._most_waiting = limits.max_waiting
        self._patience = limits.wait_milliseconds / 1000
        self.working = 0
        self.arriving = 0
        """Requests whose body is on its way, perhaps from a slow client."""
        self.answering = 0
        """Requests whose answer is on its way, perhaps to a slow client or as a stream of events."""
        self._per_route: dict[str, int] = {}
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    def try_enter(self, route: str) -> bool:
        """Enter if there is room and nobody waits for it."""
        if self._waiting or not self._has_room(route):
            return False
        self._admit(route)
        return True

    async def enter(self, route: str) -> bool:
        """Enter, if need be after a wait; returns whether there was room in time."""
        if self._has_room(route) and not any(waiting == route for waiting, _ in self._waiting):
            self._admit(route)
            return True
        if len(self._waiting) >= self._most_waiting:
            return False
        turn = asyncio.get_running_loop().create_future()
        entry = (route, turn)
        self._waiting.append(entry)
        try:
            await asyncio.wait_for(turn, self._patience)
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the turn came together with the end: it goes to the next
                self.leave(route)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        return True

    def leave(self, route: str) -> None:
        """Make room for the next."""
        self.working -= 1
        self._per_route[route] -= 1
        for entry in list(self._waiting):
            if self.working >= self._most:
                return
            waiting, turn = entry
            if self._has_room(waiting) and not turn.done():
                self._waiting.remove(entry)
                self._admit(waiting)
                turn.set_result(None)

    def _has_room(self, route: str) -> bool:
        most = self._most_forecasts if route in FORECASTING else self._most_per_route
        return self.working < self._most and self._per_route.get(route, 0) < most

    def _admit(self, route: str) -> None:
        self.working += 1
        self._per_route[route] = self._per_route.get(route, 0) + 1
