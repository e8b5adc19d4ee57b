"""Browser sessions: a signed cookie bound to a key, and a CSRF token for writes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie

from api.auth.keyring import Keyring
from api.context import Access
from forecast.clock import Clock, SystemClock

_LONGEST = 4096
COOKIE, SECURE_COOKIE = "forecast-session", "__Host-forecast-session"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Opens and recognises sessions. They are stateless, so every replica with the same secret recognises them."""

    keyring: Keyring
    lifetime: timedelta
    secret: bytes
    clock: Clock

    @classmethod
    def of(cls, keyring: Keyring, hours: int) -> Sessions:
        """Return the sessions of this process; with ``FORECAST_SESSION_SECRET`` they survive a restart."""
        secret = os.environ.get("FORECAST_SESSION_SECRET", "").encode() or secrets.token_bytes(32)
        return cls(keyring, timedelta(hours=hours), secret, SystemClock())

    def open(self, access: Access) -> str:
        """Return the cookie of a new session for a key."""
        assert access.key_id is not None  # noqa: S101 - only keys log in
        ends = int((self.clock.now() + self.lifetime).timestamp())
        payload = f"{access.key_id}.{ends}.{secrets.token_hex(8)}"
        return f"{payload}.{self._signed(payload, access.key_id)}"

    def recognise(self, cookie: str) -> Access | None:
        """Return the access of a session cookie; ``None`` if the session has ended or its key was revoked."""
        payload, _, signature = cookie.rpartition(".")
        key_id, _, rest = payload.partition(".")
        ends = rest.partition(".")[0]
        found = self.keyring.find(key_id)
        if found is None or not hmac.compare_digest(signature.encode(), self._signed(payload, key_id).encode()):
            return None
        if not ends.isdecimal() or self.clock.now().timestamp() >= int(ends):
            return None
        return replace(found[1], session=cookie, csrf=self.token(cookie))

    def token(self, session: str) -> str:
        """Return the CSRF token of a session: our pages contain it, and other sites cannot read it."""
        return self._mac(f"csrf.{session}", b"")

    def has_token(self, session: str, given: str) -> bool:
        """Whether ``given`` is the CSRF token of a session."""
        return hmac.compare_digest(given.encode(), self.token(session).encode())

    def _signed(self, payload: str, key_id: str) -> str:
        found = self.keyring.find(key_id)
        # The digest alone would let a reader of the ledger forge a session; the secret alone binds it to no key.
        return self._mac(payload, found[0].digest.encode() if found else b"")

    def _mac(self, text: str, more: bytes) -> str:
        return hmac.new(self.secret + more, text.encode(), hashlib.sha256).hexdigest()


def cookie_in(header: str) -> str | None:
    """Return the session cookie of a ``Cookie`` header."""
    if COOKIE not in header or len(header) > _LONGEST:
        return None
    try:
        cookies = SimpleCookie(header)
    except CookieError:
        return None
    found = cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)
    return found.value if found else None


def set_cookie(value: str, lifetime: timedelta, *, secure: bool) -> str:
    """Return the ``Set-Cookie`` header of a session; an empty value ends it."""
    name = SECURE_COOKIE if secure else COOKIE
    ends = int(lifetime.total_seconds()) if value else 0
    rest = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={ends}; HttpOnly; SameSite=Strict{rest}"
