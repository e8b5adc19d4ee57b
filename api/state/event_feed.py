"""Event feed: one poll of the ledger serves all clients that follow events.

Each client keeps the number of the last event that it received and reads on from there: from memory, or from the ledger
if memory no longer holds it. So nothing is kept for a client that is slow, was away, or comes from another process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
from anyio.to_thread import run_sync

from forecast.errors import UnavailableError
from forecast.ledger import Ledger
from forecast.ledger.events import Event

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events that a client follows; a field left out accepts all."""

    run_id: int | None = None
    datasets: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def takes(self, event: Event) -> bool:
        """Whether the client follows this event."""
        return (
            (self.run_id is None or event.run_id == self.run_id)
            and (not self.datasets or event.dataset in self.datasets)
            and (not self.kinds or event.kind in self.kinds)
        )


class Feed:
    """The newest events in memory, as long as a client follows.

    The poller's thread calls :meth:`look`; every other method belongs to the event loop, which alone changes the state.
    """

    MOST_FOLLOWERS: ClassVar[int] = 64
    KEPT: ClassVar[int] = 2000
    """Events that are kept in memory."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._recent: deque[Event] = deque()
        self._known_from = 0
        """All events after this one, up to ``_position``, are in memory."""
        self._position = 0
        self._followers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Set while the ledger is polled."""
        self._turn = anyio.Event()
        self._beginning = anyio.Lock()
        self.is_closing = False
        self.threads = anyio.CapacityLimiter(4)
        """Threads for the feed and its clients only: other requests must not wait for them."""

    @property
    def followers(self) -> int:
        """How many clients follow."""
        return self._followers

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a client while the body runs; raises ``events.too_many``."""
        if self._followers >= self.MOST_FOLLOWERS or self.is_closing:
            raise UnavailableError(
                "events.too_many", f"{self.MOST_FOLLOWERS} clients follow events already", "retry later"
            )
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def look(self) -> None:
        """Read the events since the last call, as long as a client follows; called by the poller."""
        loop, position = self._loop, self._position
        if loop is None:
            return
        if not self._followers:
            loop.call_soon_threadsafe(self._rest)
            return
        try:
            while len(page := self._read(position, Wanted())) == _PAGE:
                loop.call_soon_threadsafe(self._keep, position, page)
                position = page[-1].sequence
            loop.call_soon_threadsafe(self._keep, position, page)
        finally:  # clients also wait for the turn to read on in a log
            loop.call_soon_threadsafe(self._pass_turn)

    def close(self) -> None:
        """End all streams now."""
        self.is_closing = True
        self._pass_turn()

    async def newest(self) -> int:
        """Return the number of the newest event."""
        return await run_sync(self._ledger.events.last, limiter=self.threads)

    async def after(self, position: int, wanted: Wanted) -> tuple[list[Event], int, bool]:
        """Return the events after a position, the position reached, and whether the client must wait for a turn."""
        await self._begin()
        mark = self._position
        if position >= self._known_from:
            found = [event for event in self._recent if event.sequence > position and wanted.takes(event)]
            return found, max(position, mark), True
        page = await run_sync(self._read, position, wanted, limiter=self.threads)
        found = [event for event in page if wanted.takes(event)]
        if len(page) == _PAGE:
            return found, page[-1].sequence, False
        return found, max(mark, page[-1].sequence if page else 0), True

    async def turn(self) -> None:
        """Wait for the next poll of the ledger."""
        if not self.is_closing:
            await self._turn.wait()

    async def _begin(self) -> None:
        """Start polling, unless it runs; events from here on are not missed."""
        async with self._beginning:
            if self._loop is None:
                self._position = self._known_from = await self.newest()
                self._recent.clear()
                self._loop = asyncio.get_running_loop()

    def _rest(self) -> None:
        if not self._followers:  # a client may have come meanwhile
            self._loop = None

    def _keep(self, position: int, events: list[Event]) -> None:
        if position != self._position:  # the feed has begun anew since these events were read
            return
        for event in events:
            self._recent.append(event)
            self._position = event.sequence
        while len(self._recent) > self.KEPT:
            self._known_from = self._recent.popleft().sequence

    def _pass_turn(self) -> None:
        self._turn.set()
        self._turn = anyio.Event()

    def _read(self, position: int, wanted: Wanted) -> list[Event]:
        return self._ledger.events.after(position, run_id=wanted.run_id, kinds=wanted.kinds, limit=_PAGE)
