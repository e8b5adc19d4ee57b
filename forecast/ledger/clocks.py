"""Positions of replays in the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from forecast.ledger.database import Database, insert_into
from forecast.ledger.tables import (
    CLOCKS,
    UtcTime,
)

_LAST_ROWS = timedelta(hours=6)  # rows of a replay come up to three hours late


class ReplayClocks:
    """Positions of replays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, dataset: str, start: datetime) -> datetime:
        """Return the position of a replay, which begins at ``start``."""
        query = sa.select(CLOCKS.c.position).where(CLOCKS.c.dataset == dataset)
        with self._database.transaction() as connection:
            found: datetime | None = connection.execute(query).scalar()
            if found is not None:
                return found
            # Two may ask for the first time at once: the second finds what the first wrote.
            connection.execute(
                insert_into(connection, CLOCKS).values(dataset=dataset, position=start).on_conflict_do_nothing()
            )
            begun: datetime = connection.execute(query).scalar_one()
        return begun

    def move(self, dataset: str, position: datetime) -> None:
        """Advance a replay unless it has stopped. Only the scheduler calls this; a late call moves nothing back."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False), CLOCKS.c.position < position)
                .values(position=position)
            )

    def stop(self, dataset: str, position: datetime) -> None:
        """Stop a replay for good, because its source has no more rows."""
        until = sa.literal(position + _LAST_ROWS, UtcTime)
        # The scheduler moves it on while the source is read: time never goes back.
        latest = sa.case((CLOCKS.c.position > until, CLOCKS.c.position), else_=until)
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False))
                .values(stopped=True, position=latest)
            )
