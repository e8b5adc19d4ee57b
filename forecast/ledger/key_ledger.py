"""Keys of the REST interface in the ledger: their digests, never their texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.errors import NotFoundError
from forecast.ledger.database import Store
from forecast.ledger.keys import Key, Scope
from forecast.ledger.tables import KEYS


class KeyLedger(Store):
    """The part of the ledger about keys."""

    def keep_key(self, key: Key) -> None:
        """Keep a new key."""
        row = {name: getattr(key, name) for name in Key.__slots__}
        row |= {"scope": str(key.scope), "datasets": json.dumps(key.datasets)}
        with self._transaction() as connection:
            connection.execute(sa.insert(KEYS).values(row))

    def api_keys(self) -> list[Key]:
        """Return every key that was ever made, the oldest first."""
        query = sa.select(KEYS).order_by(KEYS.c.created_at, KEYS.c.key_id)
        with self._transaction() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke_key(self, key_id: str, now: datetime) -> Key:
        """Make a key open nothing any more; twice changes nothing. Raises ``key.not_found``."""
        with self._transaction() as connection:
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
