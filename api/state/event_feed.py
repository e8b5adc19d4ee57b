"""What happens, for all who follow it: one look into the ledger at a time, however many there are.

Everybody keeps the number of the last event that was passed on, and takes what comes after it: from memory, or from the
ledger where that is longer ago. So a client that is slow, was away, or comes from another process needs nothing kept.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
from anyio.to_thread import run_sync

from forecast.errors import ForecastError, UnavailableError
from forecast.ledger import Ledger
from forecast.ledger.events import Event

_PAGE = 500
_log = logging.getLogger("api")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody follows; nothing given means all."""

    run_id: int | None = None
    datasets: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def takes(self, event: Event) -> bool:
        """Whether an event is among them."""
        return (
            (self.run_id is None or event.run_id == self.run_id)
            and (not self.datasets or event.dataset in self.datasets)
            and (not self.kinds or event.kind in self.kinds)
        )


class Feed:
    """Follows the ledger's events while anybody follows it; its methods belong to one event loop."""

    LOOK_SECONDS: ClassVar[float] = 0.5
    """Between two looks."""
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
        self._is_following = False
        self._is_failing = False
        self._asked = anyio.Event()
        self._turn = anyio.Event()
        self._beginning = anyio.Lock()
        self.is_closing = False
        self.threads = anyio.CapacityLimiter(4)
        """For reading here and for those who follow: never those that other requests wait for."""

    @property
    def followers(self) -> int:
        """How many follow."""
        return self._followers

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count as a follower while the body runs; raises ``events.too_many``."""
        if self._followers >= self.MOST_FOLLOWERS or self.is_closing:
            raise UnavailableError(
                "events.too_many", f"{self.MOST_FOLLOWERS} clients follow events already", "come again later"
            )
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    async def follow(self) -> None:
        """Look into the ledger again and again, as long as somebody follows."""
        while True:
            if not self._followers:
                self._is_following, self._asked = False, anyio.Event()
                await self._asked.wait()
            try:
                while len(events := await self._read(self._position, Wanted())) == _PAGE:
                    self._keep(events)
                self._keep(events)
                self._is_failing = False
            except ForecastError as error:
                if not self._is_failing:
                    _log.error("events cannot be followed: %s [%s]", error, error.code)
                self._is_failing = True
            self._pass_turn()
            await anyio.sleep(self.LOOK_SECONDS)

    def close(self) -> None:
        """Let all who follow end now."""
        self.is_closing = True
        self._pass_turn()

    async def newest(self) -> int:
        """Return the number of the newest event."""
        return await run_sync(self._ledger.events.last, limiter=self.threads)

    async def after(self, position: int, wanted: Wanted) -> tuple[list[Event], int, bool]:
        """Return events after a position, the position that is reached, and whether to wait for the next turn."""
        await self._begin()
        mark = self._position
        if position >= self._known_from:
            found = [event for event in self._recent if event.sequence > position and wanted.takes(event)]
            return found, max(position, mark), True
        page = await self._read(position, wanted)
        found = [event for event in page if wanted.takes(event)]
        if len(page) == _PAGE:
            return found, page[-1].sequence, False
        return found, max(mark, page[-1].sequence if page else 0), True

    async def turn(self) -> None:
        """Wait for the next look into the ledger."""
        if not self.is_closing:
            await self._turn.wait()

    async def _begin(self) -> None:
        """See to it that the ledger is looked at; nothing that happens from here on is missed."""
        async with self._beginning:
            if not self._is_following:
                self._position = self._known_from = await self.newest()
                self._recent.clear()
                self._is_following = True
                self._asked.set()

    def _keep(self, events: list[Event]) -> None:
        for event in events:
            self._recent.append(event)
            self._position = event.sequence
        while len(self._recent) > self.KEPT:
            self._known_from = self._recent.popleft().sequence

    def _pass_turn(self) -> None:
        self._turn.set()
        self._turn = anyio.Event()

    async def _read(self, position: int, wanted: Wanted) -> list[Event]:
        def read() -> list[Event]:
            return self._ledger.events.after(position, run_id=wanted.run_id, kinds=wanted.kinds, limit=_PAGE)

        return await run_sync(read, limiter=self.threads)
