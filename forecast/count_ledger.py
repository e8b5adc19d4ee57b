"""Counts over the ledger, for whoever watches the service."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from forecast.ledger_store import Store
from forecast.ledger_tables import RUNS


class CountLedger(Store):
    """The part of the ledger that is only looked at."""

    def run_counts(self) -> Mapping[str, int]:
        """Return how many runs there are by state; a state without any is left out."""
        query = sa.select(RUNS.c.state, sa.func.count()).group_by(RUNS.c.state)  # answered from an index
        with self._transaction() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}
