"""Alerts in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.ledger.database import Database
from forecast.ledger.events import publish
from forecast.ledger.tables import (
    ALERTS,
)
from forecast.monitoring.alerts import AlertFinding

_OLD_NEWS = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, open or resolved."""

    sequence: int
    """Never changes: triggers remember by it which alerts they have reacted to."""
    dataset: str
    kind: str
    subject: str
    raised_at: datetime
    """On the machine's clock, as ``resolved_at``."""
    resolved_at: datetime | None
    message: str
    value: float | None
    """The measured value when the alert was raised."""
    limit: float | None

    @property
    def is_open(self) -> bool:
        """Whether the alert is not resolved yet."""
        return self.resolved_at is None


class Alerts:
    """Alerts: each is raised once, resolved once, and sent to the webhook once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def update(self, dataset: str, findings: Sequence[AlertFinding], now: datetime) -> tuple[list[Alert], list[Alert]]:
        """Raise an alert for each new finding and resolve alerts without a finding; returns both lists.

        A finding that has an open alert already keeps it unchanged.
        """
        wrong = {(str(one.kind), one.subject): one for one in findings}
        with self._database.in_turn() as connection:
            query = sa.select(ALERTS).where(ALERTS.c.dataset == dataset, ALERTS.c.resolved_at.is_(None))
            opened = {(row["kind"], row["subject"]): row for row in connection.execute(query).mappings()}
            over = [row["sequence"] for key, row in opened.items() if key not in wrong]
            if over:
                connection.execute(sa.update(ALERTS).where(ALERTS.c.sequence.in_(over)).values(resolved_at=now))
            fresh = []
            for (kind, subject), one in wrong.items():
                if (kind, subject) in opened:
                    continue
                values = {
                    "dataset": dataset, "kind": kind, "subject": subject, "raised_at": now, "message": one.message,
                    "value": one.value, "limit": one.limit,
                }  # fmt: skip
                statement = sa.insert(ALERTS).values(values).returning(ALERTS.c.sequence)
                fresh.append(connection.execute(statement).scalar_one())
            changed = sa.select(ALERTS).where(ALERTS.c.sequence.in_([*over, *fresh])).order_by(ALERTS.c.sequence)
            alerts = [_alert(row) for row in connection.execute(changed).mappings()]
            for alert in alerts:
                publish(
                    connection, "alert", dataset, now,
                    {
                        "sequence": alert.sequence, "state": "raised" if alert.is_open else "resolved",
                        "kind": alert.kind, "subject": alert.subject, "message": alert.message,
                    },
                )  # fmt: skip
        return [one for one in alerts if one.is_open], [one for one in alerts if not one.is_open]

    def find(self, dataset: str | None = None, *, open_only: bool = False, limit: int = 100) -> list[Alert]:
        """Return alerts, the newest first, at most ``limit``; of all data sets if none is named."""
        query = sa.select(ALERTS).order_by(ALERTS.c.sequence.desc()).limit(limit)
        if dataset is not None:
            query = query.where(ALERTS.c.dataset == dataset)
        if open_only:
            query = query.where(ALERTS.c.resolved_at.is_(None))
        with self._database.transaction() as connection:
            return [_alert(row) for row in connection.execute(query).mappings()]

    def unsent(self, dataset: str, now: datetime) -> list[Alert]:
        """Return alerts whose raising or resolving was not sent to the webhook yet, oldest first.

        An alert that was raised and resolved unsent is returned as resolved. Changes older than a week are never sent.
        """
        unsent = sa.or_(
            sa.and_(
                ALERTS.c.resolved_at.is_(None), ALERTS.c.raise_sent_at.is_(None), ALERTS.c.raised_at >= now - _OLD_NEWS
            ),
            sa.and_(ALERTS.c.resolve_sent_at.is_(None), ALERTS.c.resolved_at >= now - _OLD_NEWS),
        )
        query = sa.select(ALERTS).where(ALERTS.c.dataset == dataset, unsent).order_by(ALERTS.c.sequence)
        with self._database.transaction() as connection:
            return [_alert(row) for row in connection.execute(query).mappings()]

    def mark_sent(self, alert: Alert, now: datetime) -> None:
        """Record that the alert was sent to the webhook in its present state."""
        sent = {"raise_sent_at": now} if alert.is_open else {"resolve_sent_at": now}
        with self._database.transaction() as connection:
            connection.execute(sa.update(ALERTS).where(ALERTS.c.sequence == alert.sequence).values(sent))


def _alert(row: RowMapping) -> Alert:
    return Alert(**{name: row[name] for name in Alert.__slots__})
