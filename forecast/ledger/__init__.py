"""The operational state in one SQL database; ``Ledger`` holds one part per noun."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from forecast.ledger.alerts import Alerts
from forecast.ledger.champions import Champions
from forecast.ledger.clocks import ReplayClocks
from forecast.ledger.corrections import Corrections, Revisions
from forecast.ledger.database import Database
from forecast.ledger.events import Events
from forecast.ledger.issuances import Issuances
from forecast.ledger.jobs import Jobs
from forecast.ledger.keys import Keys
from forecast.ledger.leases import Hosts, Leases
from forecast.ledger.nights import Nights
from forecast.ledger.receipts import Receipts
from forecast.ledger.runs import Runs
from forecast.ledger.scores import LiveScores, References


class Ledger:
    """One SQL database, opened; every method of a part is one transaction.

    >>> with Ledger.open("sqlite://") as ledger:
    ...     ledger.champions.current("etth1") is None
    True
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.runs = Runs(database)
        self.events = Events(database)
        self.jobs = Jobs(database)
        self.leases = Leases(database)
        self.hosts = Hosts(database)
        self.champions = Champions(database)
        self.issuances = Issuances(database)
        self.nights = Nights(database)
        self.receipts = Receipts(database)
        self.clocks = ReplayClocks(database)
        self.scores = LiveScores(database)
        self.references = References(database)
        self.corrections = Corrections(database)
        self.revisions = Revisions(database)
        self.alerts = Alerts(database)
        self.keys = Keys(database)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the ledger, creating or migrating its tables.

        Raises ``ledger.failed`` if the database cannot be opened or written, and ``ledger.other_version`` if a later
        release made it.
        """
        return cls(Database.open(url))

    def close(self) -> None:
        """Close the database's connections."""
        self._database.close()

    def owned_by(self, run_id: int, attempt: int) -> Self:
        """Return this ledger for one attempt at a run; it refuses to write results once another attempt owns the run.

        A worker that was frozen, abandoned and replaced must change nothing when it wakes.
        """
        return type(self)(self._database.owned_by(run_id, attempt))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
