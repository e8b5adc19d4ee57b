"""The issued forecasts of a data set: one Delta table, partitioned by the month of issue."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from forecast.clock import Clock
from forecast.lake.locks import translated_storage_errors
from forecast.lake.maintenance import Table
from forecast.lake.schemas import FORECASTS, ISSUED
from forecast.lake.table import FILE, table_location

_SCORING = tuple(name for name in ISSUED if name not in FORECASTS)
"""Columns for scoring; tables of earlier releases may lack them."""


class Forecasts(Table):
    """The issued forecasts of one data set; all are kept."""

    def __init__(self, lake: Path | str, locks: Path, dataset: str, clock: Clock | None = None) -> None:
        super().__init__(
            table_location(lake, dataset, "forecasts"), locks / f"{dataset}.forecasts.lock", "issued_month", clock
        )

    def append(self, rows: pl.DataFrame) -> None:
        """Append the rows of forecasts; readers see them once the ledger lists their ids."""
        with self._writing() as snapshot:
            latest = None if snapshot is None else self._extend(snapshot, ISSUED)
            rows = rows.match_to_schema(ISSUED, missing_columns=dict.fromkeys(_SCORING, "insert"))
            self._append(latest, rows.select(list(ISSUED)))

    def read(self, forecast_id: str, issued_at: datetime) -> pl.DataFrame:
        """Return the rows of one forecast, sorted by series, channel, lead."""
        month = issued_at.strftime("%Y-%m")
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(None))
            return (
                self._rows(snapshot, snapshot.files.filter(pl.col("part") == month))
                .filter(pl.col("forecast_id") == forecast_id)
                .with_columns(pl.lit(month).alias(self._partition))
                .select(list(FORECASTS))
                .sort("series", "channel", "lead")
                .collect()
            )

    def ids(self, version: int) -> frozenset[str]:
        """Return the ids of all forecasts whose rows are in a version of the table."""
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(version))
            return frozenset(
                self._rows(snapshot, snapshot.files).select(pl.col("forecast_id").unique()).collect().to_series()
            )

    def remove(self, forecast_ids: Collection[str]) -> None:
        """Remove the rows of some forecasts; rewrites only the files that hold them."""
        is_removed = pl.col("forecast_id").is_in(list(forecast_ids))
        with self._writing() as snapshot:
            if snapshot is None:
                return
            place = pl.concat_str(pl.lit(self._folder.place("")), "name").alias(FILE)
            named = (
                self._rows(snapshot, snapshot.files)
                .filter(is_removed)
                .select(pl.col(FILE).unique())
                .collect()
                .to_series()
            )
            held = snapshot.files.filter(place.is_in(named.to_list()))
            if held.is_empty():
                return
            by_month = held.partition_by("part", as_dict=True).items()
            rest = (
                (str(key[0]), self._rows(snapshot, files).filter(~is_removed).drop(FILE).collect())
                for key, files in by_month
            )
            self._commit(snapshot, ((month, rows) for month, rows in rest if len(rows)), held)

    def read_many(self, forecast_ids: Mapping[str, datetime]) -> pl.DataFrame:
        """Return the rows of several forecasts, unordered, in the columns of :data:`ISSUED` without the month.

        ``forecast_ids`` maps each id to its time of issue, which tells the month to read.
        """
        months = sorted({issued_at.astimezone(UTC).strftime("%Y-%m") for issued_at in forecast_ids.values()})
        columns = [pl.col(name) for name in ISSUED if name != self._partition]
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(None))
            absent = [pl.lit(None, ISSUED[name]).alias(name) for name in _SCORING if name not in snapshot.schema]
            rows = self._rows(snapshot, snapshot.files.filter(pl.col("part").is_in(months)))
            kept = rows.filter(pl.col("forecast_id").is_in(list(forecast_ids)))
            return kept.with_columns(absent).select(columns).collect()

    def at_lead(self, lead: int, issued: Mapping[str, datetime]) -> pl.DataFrame:
        """Return the rows of one lead of several forecasts; ``issued`` maps each id to its time of issue."""
        if not self.exists or not issued:
            return pl.DataFrame(schema=FORECASTS)
        months = {time.strftime("%Y-%m") for time in issued.values()}
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(None))
            rows = self._rows(snapshot, snapshot.files.filter(pl.col("part").is_in(sorted(months))))
            chosen = rows.filter(pl.col("lead") == lead, pl.col("forecast_id").is_in(list(issued)))
            return (
                chosen.with_columns(pl.lit(None, pl.String).alias(self._partition))
                .select(list(FORECASTS))
                .sort("series", "channel", "time")
                .collect()
            )
