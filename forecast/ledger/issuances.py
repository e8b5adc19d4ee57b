"""Issued forecasts in the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.ledger.champions import Champions
from forecast.ledger.corrections import keep_revision
from forecast.ledger.database import Database
from forecast.ledger.events import publish
from forecast.ledger.issuance import ISSUANCES, Issuance
from forecast.monitoring.revision import Revision
from forecast.provenance import Provenance

_DAY = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class Issued:
    """The part of an issued forecast that scoring needs."""

    forecast_id: str
    origin: datetime
    issued_at: datetime
    horizon: int
    levels: tuple[float, ...]
    model_version: str
    model_folder: str

    @property
    def day(self) -> str:
        """The UTC day of its origin."""
        return day_of(self.origin)


class Issuances:
    """Issued forecasts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, issuance: Issuance, revision: Revision | None = None) -> None:
        """Make a forecast visible, with its revision; its rows must be in the lake already."""
        values = {name: getattr(issuance, name) for name in Issuance.__slots__ if name != "sequence"}
        values["quantiles"] = json.dumps(issuance.quantiles)
        values["provenance"] = issuance.provenance and issuance.provenance.model_dump_json()
        message = {"forecast_id": issuance.forecast_id, "model_version": issuance.model_version}
        with self._database.as_owner() as connection:
            connection.execute(sa.insert(ISSUANCES).values(values))
            if revision is not None:
                keep_revision(connection, issuance.forecast_id, issuance.dataset, issuance.recorded_at, revision)
            if not issuance.backfilled:
                publish(connection, "forecast", issuance.dataset, issuance.recorded_at, message)

    def latest(self, dataset: str, *, as_of: datetime | None = None, model: str | None = None) -> Issuance | None:
        """Return the latest forecast of a data set, if given the latest issued until ``as_of`` and by ``model``."""
        return next(iter(self._read(_narrowed(_issued(dataset).limit(1), as_of, model))), None)

    def between(
        self,
        dataset: str,
        first: datetime,
        last: datetime,
        *,
        as_of: datetime | None = None,
        model: str | None = None,
        limit: int = 10_000,
    ) -> list[Issuance]:
        """Return the latest forecast of each origin in [first, last], by origin; the newest ``limit`` are read."""
        query = _issued(dataset).where(ISSUANCES.c.origin.between(first, last)).limit(limit)
        newest: dict[datetime, Issuance] = {}
        for found in self._read(_narrowed(query, as_of, model)):
            newest.setdefault(found.origin, found)
        return sorted(newest.values(), key=lambda one: one.origin)

    def newest(self, dataset: str, limit: int = 50, *, backfilled: bool = False) -> list[Issuance]:
        """Return at most ``limit`` forecasts, newest first: the served ones, or the reissued ones."""
        return self._read(_issued(dataset, backfilled=backfilled).limit(limit))

    def first_by(self, dataset: str, model_version: str) -> Issuance | None:
        """Return the first forecast that was issued with a model."""
        query = _issued(dataset).where(ISSUANCES.c.model_version == model_version)
        return next(iter(self._read(query.order_by(None).order_by(ISSUANCES.c.sequence).limit(1))), None)

    def reissued(self, dataset: str, issued_at: datetime, data_version: int, model_version: str) -> Issuance | None:
        """Return the forecast reissued for an instant from these rows with this model."""
        query = _issued(dataset, backfilled=True).where(
            ISSUANCES.c.issued_at == issued_at,
            ISSUANCES.c.data_version == data_version,
            ISSUANCES.c.model_version == model_version,
        )
        return next(iter(self._read(query.limit(1))), None)

    def get(self, forecast_id: str) -> Issuance | None:
        """Return a forecast of any data set by its id, reissued ones included."""
        return next(iter(self._read(sa.select(ISSUANCES).where(ISSUANCES.c.forecast_id == forecast_id))), None)

    def ids(self, dataset: str, limit: int | None = None) -> frozenset[str]:
        """Return the ids of all or the newest forecasts of a data set, reissued ones included."""
        query = (
            sa.select(ISSUANCES.c.forecast_id)
            .where(ISSUANCES.c.dataset == dataset)
            .order_by(ISSUANCES.c.sequence.desc())
            .limit(limit)
        )
        with self._database.transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    def model_digest(self, issuance: Issuance) -> str | None:
        """Return the digest of the manifest of the model that made a forecast, if it is known."""
        if issuance.provenance is not None:
            return issuance.provenance.model_digest
        return Champions(self._database).digest(issuance.dataset, issuance.model_folder)

    def _read(self, query: sa.Select[Any]) -> list[Issuance]:
        with self._database.transaction() as connection:
            return [_issuance(row) for row in connection.execute(query).mappings()]

    def served(self, dataset: str) -> list[Issued]:
        """Return forecasts that were served, in the order in which they were issued.

        Reissued forecasts are excluded: their model may have been trained on the period they cover.
        """
        query = (
            sa.select(ISSUANCES)
            .where(ISSUANCES.c.dataset == dataset, ISSUANCES.c.backfilled.is_(other=False))
            .order_by(ISSUANCES.c.sequence)
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Issued(
                row["forecast_id"], row["origin"], row["issued_at"], row["horizon"],
                tuple(json.loads(row["quantiles"])), row["model_version"], row["model_folder"],
            )
            for row in rows
        ]  # fmt: skip


def _issued(dataset: str, *, backfilled: bool = False) -> sa.Select[Any]:
    """Select the forecasts of a data set, the newest first."""
    return (
        sa.select(ISSUANCES)
        .where(ISSUANCES.c.dataset == dataset, ISSUANCES.c.backfilled.is_(backfilled))
        .order_by(ISSUANCES.c.sequence.desc())
    )


def _narrowed(query: sa.Select[Any], as_of: datetime | None, model: str | None) -> sa.Select[Any]:
    if as_of is not None:
        query = query.where(ISSUANCES.c.issued_at <= as_of)
    return query if model is None else query.where(ISSUANCES.c.model_version == model)


def _issuance(row: RowMapping | Mapping[str, Any]) -> Issuance:
    values = dict(row)
    values["quantiles"] = tuple(json.loads(values["quantiles"]))
    document = values["provenance"]
    values["provenance"] = None if document is None else Provenance.model_validate_json(document)
    return Issuance(**values)


def day_of(time: datetime) -> str:
    """Return the UTC day that a time lies in."""
    return time.astimezone(UTC).strftime(_DAY)
