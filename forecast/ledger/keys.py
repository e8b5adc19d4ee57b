"""Keys of the REST interface: what one may do, how its text is made, and what of it is stored."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.errors import NotFoundError
from forecast.ledger.database import Database
from forecast.ledger.tables import KEYS

_PREFIX = "fck"
_TEXT = re.compile(rf"{_PREFIX}_([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")
LONGEST = len(_PREFIX) + 1 + 12 + 1 + 43
"""Characters of a key's text."""


class Scope(StrEnum):
    """What a key may do; each scope implies those before it.

    >>> Scope.ADMIN.implies(Scope.READ), Scope.READ.implies(Scope.WRITE)
    (True, False)
    """

    READ = "read"
    """See data sets, forecasts, runs."""
    WRITE = "write"
    """Push rows, start and cancel runs."""
    ADMIN = "admin"
    """Promote, roll back, define jobs."""

    @property
    def rank(self) -> int:
        """Place in the order of scopes."""
        return _RANKS[self]

    def implies(self, other: Scope) -> bool:
        """Whether this scope includes the other one."""
        return _RANKS[self] >= _RANKS[other]


_RANKS = {scope: rank for rank, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Key:
    """One key as the ledger knows it: its text cannot be found again."""

    key_id: str
    name: str
    """Its owner or purpose."""
    digest: str
    """SHA-256 of the whole text, as hexadecimal."""
    scope: Scope
    datasets: tuple[str, ...]
    """The data sets it is limited to; empty: all."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at a time of the machine's clock."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def state(self, now: datetime) -> str:
        """Tell ``valid``, ``revoked`` or ``expired``."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.is_valid(now) else "expired"


def mint() -> tuple[str, str, str]:
    """Make a new key: its id, its text (to be shown once) and the digest of the text (to be stored)."""
    key_id = secrets.token_hex(6)
    text = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    return key_id, text, digest_of(text)


def id_in(text: str) -> str | None:
    """Return the id inside a key's text; ``None`` if it is not the text of a key.

    >>> id_in("fck_0123456789ab_" + "x" * 43), id_in("hunter2")
    ('0123456789ab', None)
    """
    found = _TEXT.fullmatch(text)
    return found[1] if found else None


def digest_of(text: str) -> str:
    """Return the SHA-256 of a key's text.

    A slow hash would defend passwords that people think up; 256 random bits cannot be guessed, however fast the hash,
    and every request pays for it.
    """
    return hashlib.sha256(text.encode()).hexdigest()


class Keys:
    """API keys: their digests, never their texts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: Key) -> None:
        """Store a new key."""
        row = {name: getattr(key, name) for name in Key.__slots__}
        row |= {"scope": str(key.scope), "datasets": json.dumps(key.datasets)}
        with self._database.transaction() as connection:
            connection.execute(sa.insert(KEYS).values(row))

    def all(self) -> list[Key]:
        """Return every key ever created, oldest first."""
        query = sa.select(KEYS).order_by(KEYS.c.created_at, KEYS.c.key_id)
        with self._database.transaction() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str, now: datetime) -> Key:
        """Revoke a key; idempotent. Raises ``key.not_found``."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(KEYS).where(KEYS.c.key_id == key_id, KEYS.c.revoked_at.is_(None)).values(revoked_at=now)
            )
            row = connection.execute(sa.select(KEYS).where(KEYS.c.key_id == key_id)).mappings().first()
        if row is None:
            raise NotFoundError("key.not_found", f'there is no key "{key_id}"', 'see "forecast keys list"')
        return _key(row)


def _key(row: RowMapping | Mapping[str, Any]) -> Key:
    values = dict(row)
    return Key(**values | {"scope": Scope(values["scope"]), "datasets": tuple(json.loads(values["datasets"]))})
