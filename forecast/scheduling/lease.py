"""A lease: of several processes one does what only one may do, and another takes over when it falls silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from forecast.ledger import Ledger

SCHEDULER = "scheduler"
"""The lease of who schedules."""


class Lease:
    """One process's claim to a lease, to be renewed about once a second by :meth:`hold`.

    Whether the holder lives is told by its beat alone, seen against this process's own monotonic clock: neither clocks
    that jump nor clocks that disagree between machines make two holders. What only one may do must be safe all the
    same if two do it for a moment, because the holder may be frozen between a renewal and what it does then.
    """

    PATIENCE_SECONDS: ClassVar[float] = 3.5
    """How long a beat must stand still before another takes over."""

    def __init__(self, ledger: Ledger, name: str, holder: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._name = name
        self._holder = holder
        self._monotonic = monotonic
        self._is_held = False
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    def hold(self) -> bool:
        """Renew the lease, or take it if nobody has it or its holder is silent; returns whether it is held."""
        if self._is_held and self._ledger.leases.renew(self._name, self._holder) is not None:
            return True
        self._is_held = self._try()
        return self._is_held

    def drop(self) -> None:
        """Let the lease go at once."""
        if self._is_held:
            self._ledger.leases.release(self._name, self._holder)
        self._is_held = False

    def _try(self) -> bool:
        found = self._ledger.leases.get(self._name)
        now = self._monotonic()
        if found is None:
            return self._ledger.leases.take(self._name, self._holder, None) is not None
        if found != self._seen:
            self._seen, self._seen_at = found, now
            return False
        if now - self._seen_at < self.PATIENCE_SECONDS:
            return False
        return self._ledger.leases.take(self._name, self._holder, found[1]) is not None
