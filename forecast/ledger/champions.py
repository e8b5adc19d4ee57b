"""Present and past champions in the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from forecast.ledger.database import Database
from forecast.ledger.events import publish
from forecast.ledger.tables import (
    CHAMPIONS,
)


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that a data set's forecasts are issued with."""

    dataset: str
    model_name: str
    model_version: str
    folder: str
    digest: str
    promoted_at: datetime
    verdict: str


def distinct(champions: Iterable[Champion]) -> list[Champion]:
    """Return champions, newest first, each version once."""
    newest: dict[str, Champion] = {}
    for champion in champions:
        newest.setdefault(champion.model_version, champion)
    return list(newest.values())


class Champions:
    """Present and past champions of each data set."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def promote(self, champion: Champion) -> None:
        """Make a model the champion of its data set; earlier champions stay in the history."""
        with self._database.as_owner() as connection:
            crown(connection, champion)

    def current(self, dataset: str) -> Champion | None:
        """Return the present champion, if there is one."""
        return next(iter(self.history(dataset, limit=1)), None)

    def history(self, dataset: str, limit: int | None = 50) -> list[Champion]:
        """Return present and past champions, newest first; a restored champion appears twice."""
        query = (
            sa.select(CHAMPIONS)
            .where(CHAMPIONS.c.dataset == dataset)
            .order_by(CHAMPIONS.c.sequence.desc())
            .limit(limit)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Champion(**{key: value for key, value in row.items() if key != "sequence"}) for row in rows]

    def folders(self, dataset: str) -> frozenset[str]:
        """Return the folders of all models that are or were champion."""
        query = sa.select(CHAMPIONS.c.folder).where(CHAMPIONS.c.dataset == dataset)
        with self._database.transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    def digest(self, dataset: str, folder: str) -> str | None:
        """Return the digest of a model's manifest when it became champion, or ``None`` if none was kept."""
        query = (
            sa.select(CHAMPIONS.c.digest)
            .where(CHAMPIONS.c.dataset == dataset, CHAMPIONS.c.folder == folder, CHAMPIONS.c.digest != "")
            .order_by(CHAMPIONS.c.sequence.desc())
            .limit(1)
        )
        with self._database.transaction() as connection:
            return connection.execute(query).scalar()


def crown(connection: sa.Connection, champion: Champion) -> None:
    """Make a model the champion within a transaction of the ledger."""
    connection.execute(sa.insert(CHAMPIONS).values(_fields(champion)))
    message = {"model_version": champion.model_version, "verdict": champion.verdict}
    publish(connection, "promotion", champion.dataset, champion.promoted_at, message)


def _fields(champion: Champion) -> dict[str, Any]:
    return {name: getattr(champion, name) for name in Champion.__slots__}
