"""The keys in memory, as fresh as the last look at the ledger, and who a key's text belongs to."""

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
_NOBODY = secrets.token_hex(32)


class Keyring:
    """Every valid key of the ledger; ``refresh`` is called once a second, the rest answers from memory."""

    def __init__(self, ledger: Ledger, clock: Clock | None = None, *, beyond_loopback: bool = False) -> None:
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._beyond_loopback = beyond_loopback
        self._all: tuple[Key, ...] = ()
        self._valid: Mapping[str, tuple[Key, Access]] = MappingProxyType({})
        self._refreshed = time.monotonic()

    def refresh(self) -> None:
        """Read the ledger's keys; while it cannot be read, those that were read before stay until they expire."""
        try:
            self._all = tuple(self._ledger.keys.all())
            self._refreshed = time.monotonic()
        finally:
            now = self._clock.now()
            # Whole mappings are replaced, never changed; who is valid is not asked anew with every request.
            self._valid = MappingProxyType({key.key_id: _held(key) for key in self._all if key.is_valid(now)})

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything: on the loopback address, as long as no key was ever made."""
        return not self._all and not self._beyond_loopback

    @property
    def lacks_keys(self) -> bool:
        """Whether nobody can do anything: others reach the service, and no key is valid."""
        return self._beyond_loopback and not self._valid

    @property
    def is_late(self) -> bool:
        """Whether the ledger was last read so long ago that a revoked key may still open."""
        return time.monotonic() - self._refreshed > _LATE_SECONDS

    def identify(self, text: str) -> Access | None:
        """Return what the sender of a key's text may do; ``None`` if it is not a valid key."""
        if len(text) > LONGEST:
            return None
        found = self._valid.get(id_in(text) or "")
        # Compared in any case, in constant time: neither an unknown id nor a wrong text is told by how long it took.
        same = compare_digest(digest_of(text), found[0].digest if found else _NOBODY)
        return found[1] if found and same else None

    def find(self, key_id: str) -> tuple[Key, Access] | None:
        """Return a key that is valid, by its id."""
        return self._valid.get(key_id)


def _held(key: Key) -> tuple[Key, Access]:
    return key, Access(key.scope, key.key_id, frozenset(key.datasets))
