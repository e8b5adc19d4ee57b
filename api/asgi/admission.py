"""Rate limiting per sender, and a bounded number of concurrent requests: in total and per route."""

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
"""Routes that run a model for each request."""


class Rates:
    """A token bucket per sender, in memory. Only the event loop uses it, so it needs no lock.

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
        """Take a token and return 0, or return the whole seconds until the next one."""
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
        while len(self._buckets) >= _MOST_SENDERS:  # all of them are active: drop the oldest
            del self._buckets[next(iter(self._buckets))]


class Admission:
    """Admits a bounded number of requests at once; the others wait briefly, in order, and are then refused.

    Only the event loop uses it.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_requests
        self._most_per_route = limits.max_requests_per_route
        self._most_forecasts = min(limits.max_forecasts, limits.max_requests_per_route)
        self._most_waiting = limits.max_waiting
        self._patience = limits.wait_milliseconds / 1000
        self.working = 0
        self.arriving = 0
        """Requests whose body is being received, perhaps from a slow client."""
        self.answering = 0
        """Requests whose answer is being sent, perhaps to a slow client or as a stream of events."""
        self._per_route: dict[str, int] = {}
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    def try_enter(self, route: str) -> bool:
        """Enter if there is room and no other request waits."""
        if self._waiting or not self._has_room(route):
            return False
        self._admit(route)
        return True

    async def enter(self, route: str) -> bool:
        """Enter, after a wait if necessary; returns whether there was room in time."""
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
            if turn.done() and not turn.cancelled():  # admitted and cancelled at once: pass the place on
                self.leave(route)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        return True

    def leave(self, route: str) -> None:
        """Free the place, and admit requests that wait."""
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
