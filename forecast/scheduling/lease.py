"""A lease: leader election among processes, with a takeover when the holder stops renewing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from forecast.ledger import Ledger

SCHEDULER = "scheduler"
"""Name of the scheduler's lease."""


class Lease:
    """One process's claim to a lease; :meth:`hold` must be called about once a second.

    The holder is alive while its heartbeat counter keeps changing. Only this process's monotonic clock is used, so that
    clocks which jump or disagree between machines cannot produce two holders. The protected work must still tolerate
    two holders for a moment: a holder may be frozen between a renewal and its work.
    """

    PATIENCE_SECONDS: ClassVar[float] = 3.5
    """Time without a heartbeat after which another process takes over."""

    def __init__(self, ledger: Ledger, name: str, holder: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._name = name
        self._holder = holder
        self._monotonic = monotonic
        self._is_held = False
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    def hold(self) -> bool:
        """Renew the lease, or take it if it is free or its holder is silent; returns whether this process holds it."""
        if self._is_held and self._ledger.leases.renew(self._name, self._holder) is not None:
            return True
        self._is_held = self._try()
        return self._is_held

    def release(self) -> None:
        """Release the lease at once, so that another process need not wait."""
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
