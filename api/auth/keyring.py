"""The valid API keys in memory, refreshed from the ledger once a second."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from hmac import compare_digest
from types import MappingProxyType

from api.context import Access
from forecast.clock import Clock, SystemClock
from forecast.ledger import Ledger
from forecast.ledger.keys import LONGEST, Key, digest_of, id_in

_LATE_SECONDS = 10.0
_NO_KEY = secrets.token_hex(32)


class Keyring:
    """All valid keys of the ledger. The poller calls ``refresh`` once a second; everything else answers from memory."""

    def __init__(self, ledger: Ledger, clock: Clock | None = None, *, beyond_loopback: bool = False) -> None:
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._beyond_loopback = beyond_loopback
        self._all: tuple[Key, ...] = ()
        self._valid: Mapping[str, tuple[Key, Access]] = MappingProxyType({})
        self._refreshed = time.monotonic()

    def refresh(self) -> None:
        """Read the ledger's keys. If the ledger fails, the known keys stay valid until they expire."""
        try:
            self._all = tuple(self._ledger.keys.all())
            self._refreshed = time.monotonic()
        finally:
            now = self._clock.now()
            # Mappings are replaced, never changed. Expiry is checked here, not with every request.
            self._valid = MappingProxyType({key.key_id: _held(key) for key in self._all if key.is_valid(now)})

    @property
    def is_open(self) -> bool:
        """Whether requests need no key: only on the loopback address, until the first key is created."""
        return not self._all and not self._beyond_loopback

    @property
    def lacks_keys(self) -> bool:
        """Whether every request is refused: the service is reachable from other machines, and no key is valid."""
        return self._beyond_loopback and not self._valid

    @property
    def is_late(self) -> bool:
        """Whether the last refresh is more than 10 s ago, so that a revoked key may still be accepted."""
        return time.monotonic() - self._refreshed > _LATE_SECONDS

    def identify(self, text: str) -> Access | None:
        """Return the access of a key's text; ``None`` if the key is invalid."""
        if len(text) > LONGEST:
            return None
        found = self._valid.get(id_in(text) or "")
        # Always compared, in constant time: the duration reveals neither an unknown id nor a wrong text.
        same = compare_digest(digest_of(text), found[0].digest if found else _NO_KEY)
        return found[1] if found and same else None

    def find(self, key_id: str) -> tuple[Key, Access] | None:
        """Return a valid key by its id."""
        return self._valid.get(key_id)


def _held(key: Key) -> tuple[Key, Access]:
    return key, Access(key.scope, key.key_id, frozenset(key.datasets))
