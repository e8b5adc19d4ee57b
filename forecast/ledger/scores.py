"""Scores of served forecasts in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from forecast.ledger.database import Database, insert_into
from forecast.ledger.issuances import day_of
from forecast.ledger.tables import (
    FORECAST_SCORES,
    LEAD_SCORES,
    SCORED_DAYS,
    SERIES_SCORES,
    YARDSTICKS,
)
from forecast.monitoring.live_scores import MEASURES, Accuracy, Tally
from forecast.monitoring.reference import Reference
from forecast.panel import Array

By = Literal["all", "lead_time", "lead_group", "channel", "model", "series"]


@dataclass(frozen=True, slots=True)
class OriginScore:
    """Sums over all series of one forecast, channel and group of lead times.

    The measures are described at :data:`forecast.monitoring.live_scores.MEASURES`.
    """

    forecast_id: str
    origin: datetime
    channel: str
    first: int
    last: int
    count: int
    absolute: float
    squared: float
    pinball: float
    inside: float
    width: float
    compared: float
    naive: float


@dataclass(frozen=True, slots=True)
class DayScores:
    """The scores of all forecasts of one model with origins in one UTC day."""

    dataset: str
    day: str
    model_version: str
    digest: str
    """Of everything that the scores follow from."""
    levels: tuple[float, ...]
    ends: tuple[int, ...]
    """Last lead time of each group."""
    by_lead: Mapping[str, Array]
    """By channel, over all series: [len(MEASURES) + Q, H]."""
    by_series: Mapping[tuple[str, str], Array]
    """By series and channel, over all lead times: [len(MEASURES) + Q]."""
    by_origin: Sequence[OriginScore]


class LiveScores:
    """Scores of served forecasts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def scored_days(self, dataset: str) -> dict[tuple[str, str], str]:
        """Return the digest of the scored data by day and model version."""
        query = sa.select(SCORED_DAYS.c.day, SCORED_DAYS.c.model_version, SCORED_DAYS.c.digest)
        with self._database.transaction() as connection:
            rows = connection.execute(query.where(SCORED_DAYS.c.dataset == dataset)).all()
        return {(day, version): digest for day, version, digest in rows}

    def replace(self, days: Iterable[DayScores]) -> None:
        """Replace the scores of some days: all of them or none."""
        with self._database.as_owner() as connection:
            for day in days:
                key = {"dataset": day.dataset, "day": day.day, "model_version": day.model_version}
                for table in (SCORED_DAYS, LEAD_SCORES, SERIES_SCORES, FORECAST_SCORES):
                    connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in key.items())))
                about = {"digest": day.digest, "levels": json.dumps(day.levels), "ends": json.dumps(day.ends)}
                leads = [{"channel": name, "sums": _bytes(sums)} for name, sums in day.by_lead.items()]
                series = [
                    {"series": one, "channel": name, "sums": _bytes(sums)}
                    for (one, name), sums in day.by_series.items()
                ]
                origins = [{name: getattr(one, name) for name in OriginScore.__slots__} for one in day.by_origin]
                for table, rows in (
                    (SCORED_DAYS, [about]), (LEAD_SCORES, leads), (SERIES_SCORES, series), (FORECAST_SCORES, origins),
                ):  # fmt: skip
                    if rows:
                        connection.execute(sa.insert(table), [key | row for row in rows])

    def accuracy(
        self,
        dataset: str,
        by: By = "all",
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        model: str | None = None,
        channel: str | None = None,
    ) -> list[Accuracy]:
        """Return the accuracy of forecasts whose origins lie in whole UTC days from ``since`` to ``until``.

        The days of both times count whole; parts without any observation are omitted. Lead times come in their
        order, other parts by name.
        """
        tables = SERIES_SCORES if by == "series" else LEAD_SCORES
        limits = [SCORED_DAYS.c.dataset == dataset]
        if since is not None:
            limits.append(SCORED_DAYS.c.day >= day_of(since))
        if until is not None:
            limits.append(SCORED_DAYS.c.day <= day_of(until - timedelta(microseconds=1)))
        if model is not None:
            limits.append(SCORED_DAYS.c.model_version == model)
        if channel is not None:
            limits.append(tables.c.channel == channel)
        shared = ("dataset", "day", "model_version")
        query = (
            sa.select(tables, SCORED_DAYS.c.levels, SCORED_DAYS.c.ends)
            .join(SCORED_DAYS, sa.and_(*(tables.c[name] == SCORED_DAYS.c[name] for name in shared)))
            .where(*limits)
            # In one order, or the same sums would come out a bit differently.
            .order_by(*(tables.c[name] for name in tables.primary_key.columns.keys()))  # noqa: SIM118
        )
        whole: dict[tuple[str, str, str, int], Array] = {}
        channels: dict[str, set[str]] = {}
        with self._database.transaction() as connection:
            for row in connection.execute(query).mappings():
                name = _name(by, row)
                sums = np.frombuffer(row["sums"], "<f8").reshape(len(MEASURES) + len(json.loads(row["levels"])), -1)
                key = (name, row["levels"], row["ends"], sums.shape[1])
                whole[key] = sums if key not in whole else whole[key] + sums
                channels.setdefault(name, set()).add(row["channel"])
        tallies: dict[tuple[int, str, str], Tally] = {}
        for (name, levels, ends, _), sums in whole.items():
            for place, part, message in _parts(by, name, json.loads(ends), sums):
                tallies.setdefault((place, part, name), Tally()).add(message, json.loads(levels))
        found = (tallies[key].accuracy(key[1], in_units=len(channels[key[2]]) == 1) for key in sorted(tallies))
        return [one for one in found if one is not None]

    def by_origin(self, dataset: str, model_version: str, since: datetime) -> list[OriginScore]:
        """Return the scores of each forecast of a model with an origin from a time on, in the order of origins."""
        table = FORECAST_SCORES
        query = (
            sa.select(*(table.c[name] for name in OriginScore.__slots__))
            .where(table.c.dataset == dataset, table.c.model_version == model_version, table.c.origin >= since)
            .order_by(table.c.origin, table.c.forecast_id, table.c.channel, table.c.last)
        )
        with self._database.transaction() as connection:
            return [OriginScore(*row) for row in connection.execute(query)]


class References:
    """What each model was fitted on: the unit of its live scores."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, dataset: str, model_version: str) -> Reference | None:
        """Return a model's reference, if it is stored."""
        query = sa.select(YARDSTICKS.c.document).where(
            YARDSTICKS.c.dataset == dataset, YARDSTICKS.c.model_version == model_version
        )
        with self._database.transaction() as connection:
            document = connection.execute(query).scalar()
        return None if document is None else Reference.model_validate_json(document)

    def add(self, dataset: str, model_version: str, message: Reference) -> None:
        """Store a model's reference, unless it is stored already."""
        row = {"dataset": dataset, "model_version": model_version, "document": message.model_dump_json()}
        with self._database.transaction() as connection:
            connection.execute(insert_into(connection, YARDSTICKS).values(row).on_conflict_do_nothing())


def _name(by: By, row: RowMapping) -> str:
    match by:
        case "channel" | "series":
            return str(row[by])
        case "model":
            return str(row["model_version"])
        case _:
            return "all"


def _parts(by: By, name: str, ends: Sequence[int], sums: Array) -> Iterable[tuple[int, str, Array]]:
    """Yield the parts of [K, H]: their place, their name, and [K]."""
    if by == "lead_time":
        for lead in range(sums.shape[1]):
            yield lead + 1, str(lead + 1), sums[:, lead]
    elif by == "lead_group":
        for begin, end in zip((0, *ends), ends, strict=False):
            if begin < sums.shape[1]:
                yield end, f"{begin + 1}-{end}", sums[:, begin:end].sum(axis=1)
    else:
        yield 0, name, sums.sum(axis=1)


def _bytes(sums: Array) -> bytes:
    return np.ascontiguousarray(sums, dtype="<f8").tobytes()
