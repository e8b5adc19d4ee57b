"""The keys in memory, as fresh as the last look at the ledger, and who a key's text belongs to."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from hmac import compare_digest
from types import MappingProxyType

from api.exchange import Access
from forecast.clock import Clock, SystemClock
from forecast.errors import ForecastError
from forecast.keys import LONGEST, Key, digest_of, id_in
from forecast.ledger import Ledger

_LATE_SECONDS = 10.0
_NOBODY = secrets.token_hex(32)
_log = logging.getLogger("api")


class Keyring:
    """Every key of the ledger by id; ``refresh`` is called once a second, the rest answers from memory."""

    def __init__(self, ledger: Ledger, clock: Clock | None = None, *, beyond_loopback: bool = False) -> None:
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._beyond_loopback = beyond_loopback
        self._keys: Mapping[str, tuple[Key, Access]] = MappingProxyType({})
        self._refreshed = time.monotonic()

    def refresh(self) -> None:
        """Read the ledger's keys; while it cannot be read, those that were read before stay."""
        try:
            keys = self._ledger.api_keys()
        except ForecastError as error:
            if not self.is_late:
                _log.error("the keys cannot be read: %s [%s]", error, error.code)
            return
        self._keys = MappingProxyType(
            {key.key_id: (key, Access(key.scope, key.key_id, frozenset(key.datasets))) for key in keys}
        )
        self._refreshed = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything: on the loopback address, as long as no key was ever made."""
        return not self._keys and not self._beyond_loopback

    @property
    def lacks_keys(self) -> bool:
        """Whether nobody can do anything: others reach the service, and no key is valid."""
        now = self._clock.now()
        return self._beyond_loopback and not any(key.is_valid(now) for key, _ in self._keys.values())

    @property
    def is_late(self) -> bool:
        """Whether the ledger was last read so long ago that a revoked key may still open."""
        return time.monotonic() - self._refreshed > _LATE_SECONDS

    def identify(self, text: str) -> Access | None:
        """Return what the sender of a key's text may do; ``None`` if it is not a valid key."""
        if len(text) > LONGEST:
            return None
        found = self._keys.get(id_in(text) or "")
        # Compared in any case, in constant time: neither an unknown id nor a wrong text is told by how long it took.
        same = compare_digest(digest_of(text), found[0].digest if found else _NOBODY)
        return found[1] if found and same and found[0].is_valid(self._clock.now()) else None

    def find(self, key_id: str) -> tuple[Key, Access] | None:
        """Return a key that is valid now, by its id."""
        found = self._keys.get(key_id)
        return found if found and found[0].is_valid(self._clock.now()) else None
