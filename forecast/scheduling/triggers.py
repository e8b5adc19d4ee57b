"""Triggers: events that make jobs due beside their cron schedule (new rows, alerts)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from forecast.config.jobs import Cause, Due, Trigger
from forecast.installation import Installation
from forecast.scheduling.job_book import KnownJob

_BY_TRIGGER = tuple(Cause(trigger) for trigger in Trigger)


class Triggers:
    """Finds the events that jobs wait for. Each event makes a job due once."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._watermarks: dict[str, tuple[int | None, datetime | None]] = {}
        """Data version and its watermark by data set, cached."""
        self._done: dict[tuple[str, Trigger], str] = {}
        """Last claimed date by job and trigger; saves a query of the ledger in every tick."""

    def due(self, known: KnownJob, now: datetime) -> list[Due]:
        """Return the dates that a job's triggers make due, at most one per trigger."""
        if not known.definition.on or self._rests(known, now):
            return []
        found = []
        for trigger in known.definition.on:
            date = self._date(trigger, known.definition.dataset)
            if date is None or self._done.get((known.name, trigger)) == date:
                continue
            if self._installation.ledger.runs.is_claimed(known.name, date):
                self._done[known.name, trigger] = date
            else:
                found.append(Due(logical_date=date, at=now, cause=Cause(trigger)))
        return found

    def _rests(self, known: KnownJob, now: datetime) -> bool:
        if not known.definition.rest:
            return False
        last = self._installation.ledger.runs.last_due(known.name, *_BY_TRIGGER, until=now)
        return last is not None and now < last + known.definition.rest

    def _date(self, trigger: Trigger, dataset: str) -> str | None:
        match trigger:
            case Trigger.DATA:
                version = self._installation.ledger.receipts.newest_change(dataset)
                return None if version is None else f"data-{version}"
            case Trigger.WATERMARK:
                watermark = self._watermark(dataset)
                return None if watermark is None else f"watermark-{watermark.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
            case Trigger.DRIFT | Trigger.REGRESSION:
                return next(self._alerts(trigger, dataset), None)

    def _watermark(self, dataset: str) -> datetime | None:
        version = self._installation.ledger.receipts.newest_change(dataset)
        if version is not None and self._watermarks.get(dataset, (None, None))[0] != version:
            targets = self._installation.config.datasets[dataset].targets
            self._watermarks[dataset] = version, self._installation.dataset(dataset).observations.watermark(targets)
        return self._watermarks.get(dataset, (None, None))[1]

    def _alerts(self, trigger: Trigger, dataset: str) -> Iterator[str]:
        for alert in self._installation.ledger.alerts.find(dataset, open_only=True):
            if alert.kind == trigger:
                yield f"{trigger}-{alert.sequence}"
