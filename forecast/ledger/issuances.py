"""The ledger: jobs, runs, champions and issued forecasts, where "exactly once" matters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.evaluation.night import NightRecord
from forecast.ledger.database import insert_into
from forecast.ledger.jobs import JobLedger, LeaseLedger
from forecast.ledger.key_ledger import KeyLedger
from forecast.ledger.receipts import Receipt
from forecast.ledger.runs import RunLedger, tell
from forecast.ledger.scores import LiveLedger, keep_revision
from forecast.ledger.tables import CHAMPIONS, CLOCKS, ISSUANCES, NIGHTS, RECEIPTS, UtcTime
from forecast.monitoring.revision import Revision
from forecast.provenance import Provenance

_LAST_ROWS = timedelta(hours=6)  # rows of a replay come up to three hours late


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


@dataclass(frozen=True, slots=True)
class Issuance:
    """One forecast of all series and channels of a data set, as it was issued."""

    forecast_id: str
    dataset: str
    issued_at: datetime
    """On the data set's clock."""
    origin: datetime
    """Time of the first forecast step."""
    horizon: int
    quantiles: tuple[float, ...]
    data_version: int
    """Version of the lake's table that the forecast was computed from."""
    model_name: str
    model_version: str
    model_folder: str
    imputed_fraction: float
    """Share of the look-back's values that were filled, not observed."""
    recorded_at: datetime
    """On the machine's clock."""
    newest_observed: datetime | None = None
    """Time of the newest target value that was really observed, of the series and target that are furthest behind."""
    provenance: Provenance | None = None
    """What else made it; ``None`` of one that an earlier release issued."""
    backfilled: bool = False
    """Whether it was made afterwards, as it would have been issued at ``issued_at``; such a one is never served."""
    correction: int | None = None
    """The correction that its quantiles were moved by (:meth:`Ledger.correction`), if one was."""
    sequence: int = 0


class Ledger(RunLedger, JobLedger, LeaseLedger, LiveLedger, KeyLedger):
    """Operational state in one SQL database; every method is one transaction."""

    # --- champions --------------------------------------------------------------------------------------------------

    def promote(self, champion: Champion) -> None:
        """Make a model the champion of its data set; older champions stay as history."""
        with self._as_owner() as connection:
            _crown(connection, champion)

    def champion(self, dataset: str) -> Champion | None:
        """Return the model that is champion now, if there is one."""
        return next(iter(self.champions(dataset, limit=1)), None)

    def champions(self, dataset: str, limit: int | None = 50) -> list[Champion]:
        """Return who is and who was champion, the newest first; one who came back is there twice."""
        query = (
            sa.select(CHAMPIONS)
            .where(CHAMPIONS.c.dataset == dataset)
            .order_by(CHAMPIONS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Champion(**{key: value for key, value in row.items() if key != "sequence"}) for row in rows]

    def champion_folders(self, dataset: str) -> frozenset[str]:
        """Return the folders of all models that are or were champion."""
        query = sa.select(CHAMPIONS.c.folder).where(CHAMPIONS.c.dataset == dataset)
        with self._transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    def model_digest(self, dataset: str, folder: str) -> str | None:
        """Return the digest of a model's manifest when it became champion, or ``None`` if none was kept."""
        query = (
            sa.select(CHAMPIONS.c.digest)
            .where(CHAMPIONS.c.dataset == dataset, CHAMPIONS.c.folder == folder, CHAMPIONS.c.digest != "")
            .order_by(CHAMPIONS.c.sequence.desc())
            .limit(1)
        )
        with self._transaction() as connection:
            return connection.execute(query).scalar()

    def digest_of(self, issuance: Issuance) -> str | None:
        """Return the digest of the manifest of the model that made a forecast, if it is known."""
        if issuance.provenance is not None:
            return issuance.provenance.model_digest
        return self.model_digest(issuance.dataset, issuance.model_folder)

    # --- issuances --------------------------------------------------------------------------------------------------

    def issue(self, issuance: Issuance, revision: Revision | None = None) -> None:
        """Make a forecast visible, with how it differs from the one before; its rows must be in the lake already."""
        values = {name: getattr(issuance, name) for name in Issuance.__slots__ if name != "sequence"}
        values["quantiles"] = json.dumps(issuance.quantiles)
        values["provenance"] = issuance.provenance and issuance.provenance.model_dump_json()
        message = {"forecast_id": issuance.forecast_id, "model_version": issuance.model_version}
        with self._as_owner() as connection:
            connection.execute(sa.insert(ISSUANCES).values(values))
            if revision is not None:
                keep_revision(connection, issuance.forecast_id, issuance.dataset, issuance.recorded_at, revision)
            if not issuance.backfilled:
                tell(connection, "forecast", issuance.dataset, issuance.recorded_at, message)

    def issuance(self, dataset: str, *, as_of: datetime | None = None, model: str | None = None) -> Issuance | None:
        """Return the latest forecast of a data set: that had been issued at ``as_of``, by a model of that version."""
        return next(iter(self._issuances(_narrowed(_issued(dataset).limit(1), as_of, model))), None)

    def issuances_from(
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
        for found in self._issuances(_narrowed(query, as_of, model)):
            newest.setdefault(found.origin, found)
        return sorted(newest.values(), key=lambda one: one.origin)

    def issuances(self, dataset: str, limit: int = 50, *, backfilled: bool = False) -> list[Issuance]:
        """Return the newest forecasts first, at most ``limit``: those that were served, or those made afterwards."""
        return self._issuances(_issued(dataset, backfilled=backfilled).limit(limit))

    def first_issuance(self, dataset: str, model_version: str) -> Issuance | None:
        """Return the first forecast that was issued with a model."""
        query = _issued(dataset).where(ISSUANCES.c.model_version == model_version)
        return next(iter(self._issuances(query.order_by(None).order_by(ISSUANCES.c.sequence).limit(1))), None)

    def backfilled(self, dataset: str, issued_at: datetime, data_version: int, model_version: str) -> Issuance | None:
        """Return the forecast that was made afterwards for an instant, from these rows with this model."""
        query = _issued(dataset, backfilled=True).where(
            ISSUANCES.c.issued_at == issued_at,
            ISSUANCES.c.data_version == data_version,
            ISSUANCES.c.model_version == model_version,
        )
        return next(iter(self._issuances(query.limit(1))), None)

    def forecast(self, forecast_id: str) -> Issuance | None:
        """Return the forecast of an id, of whatever data set, also one that was made afterwards."""
        return next(iter(self._issuances(sa.select(ISSUANCES).where(ISSUANCES.c.forecast_id == forecast_id))), None)

    def forecast_ids(self, dataset: str, limit: int | None = None) -> frozenset[str]:
        """Return the ids of all forecasts of a data set, or of the newest ones, also of those made afterwards."""
        query = (
            sa.select(ISSUANCES.c.forecast_id)
            .where(ISSUANCES.c.dataset == dataset)
            .order_by(ISSUANCES.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    def _issuances(self, query: sa.Select[Any]) -> list[Issuance]:
        with self._transaction() as connection:
            return [_issuance(row) for row in connection.execute(query).mappings()]

    # --- nights -----------------------------------------------------------------------------------------------------

    def keep_night(self, night: NightRecord, promoted: Champion | None = None) -> None:
        """Keep what a night compared and decided, and make the promoted model champion: both or neither."""
        row = {"dataset": night.dataset, "recorded_at": night.recorded_at, "document": night.model_dump_json()}
        with self._as_owner() as connection:
            connection.execute(sa.insert(NIGHTS).values(row))
            if promoted is not None:
                _crown(connection, promoted)

    def nights(self, dataset: str, limit: int = 1) -> list[NightRecord]:
        """Return the latest nights of a data set, newest first."""
        query = (
            sa.select(NIGHTS.c.document)
            .where(NIGHTS.c.dataset == dataset)
            .order_by(NIGHTS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [NightRecord.model_validate_json(text) for text in connection.execute(query).scalars()]

    # --- receipts ---------------------------------------------------------------------------------------------------

    def keep(self, receipt: Receipt) -> None:
        """Keep the receipt of an ingestion."""
        row = {
            "dataset": receipt.dataset, "recorded_at": receipt.recorded_at, "data_version": receipt.data_version,
            "document": receipt.model_dump_json(),
        }  # fmt: skip
        with self._transaction() as connection:
            connection.execute(sa.insert(RECEIPTS).values(row))

    def receipts(self, dataset: str, limit: int = 50) -> list[Receipt]:
        """Return the latest receipts of a data set, newest first."""
        query = (
            sa.select(RECEIPTS.c.document)
            .where(RECEIPTS.c.dataset == dataset)
            .order_by(RECEIPTS.c.sequence.desc())
            .limit(limit)
        )
        with self._transaction() as connection:
            return [Receipt.model_validate_json(text) for text in connection.execute(query).scalars()]

    def newest_change(self, dataset: str) -> int | None:
        """Return the data version of the latest ingestion that brought new or changed rows."""
        query = (
            sa.select(RECEIPTS.c.sequence, RECEIPTS.c.data_version, RECEIPTS.c.document)
            .where(RECEIPTS.c.dataset == dataset, RECEIPTS.c.data_version.is_not(None))
            .order_by(RECEIPTS.c.sequence.desc())
            .limit(50)
        )
        with self._transaction() as connection:
            rows = connection.execute(query).all()
            while rows:  # any number of ingestions may have brought nothing since
                for _, version, text in rows:
                    receipt = json.loads(text)
                    if receipt.get("new") or receipt.get("changed"):
                        return int(version)
                rows = connection.execute(query.where(RECEIPTS.c.sequence < rows[-1].sequence)).all()
        return None

    # --- clocks of replays ------------------------------------------------------------------------------------------

    def clock(self, dataset: str, start: datetime) -> datetime:
        """Return the position of a replay, which begins at ``start``."""
        query = sa.select(CLOCKS.c.position).where(CLOCKS.c.dataset == dataset)
        with self._transaction() as connection:
            found: datetime | None = connection.execute(query).scalar()
            if found is not None:
                return found
            # Two may ask for the first time at once: the second finds what the first wrote.
            connection.execute(
                insert_into(connection, CLOCKS).values(dataset=dataset, position=start).on_conflict_do_nothing()
            )
            begun: datetime = connection.execute(query).scalar_one()
        return begun

    def move_clock(self, dataset: str, position: datetime) -> None:
        """Move a replay on, unless it has stopped; only the scheduler does, and a late one moves nothing back."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False), CLOCKS.c.position < position)
                .values(position=position)
            )

    def stop_clock(self, dataset: str, position: datetime) -> None:
        """Stop a replay for good where its source has no more rows: nothing new would ever come."""
        until = sa.literal(position + _LAST_ROWS, UtcTime)
        # The scheduler moves it on while the source is read: time never goes back.
        latest = sa.case((CLOCKS.c.position > until, CLOCKS.c.position), else_=until)
        with self._transaction() as connection:
            connection.execute(
                sa.update(CLOCKS)
                .where(CLOCKS.c.dataset == dataset, CLOCKS.c.stopped.is_(other=False))
                .values(stopped=True, position=latest)
            )


def _crown(connection: sa.Connection, champion: Champion) -> None:
    connection.execute(sa.insert(CHAMPIONS).values(_fields(champion)))
    message = {"model_version": champion.model_version, "verdict": champion.verdict}
    tell(connection, "promotion", champion.dataset, champion.promoted_at, message)


def _fields(champion: Champion) -> dict[str, Any]:
    return {name: getattr(champion, name) for name in Champion.__slots__}


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
