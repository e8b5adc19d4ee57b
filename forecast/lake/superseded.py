"""Rows that lost a conflict on arrival: stored in a table of their own, so that no received value is lost."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from forecast.clock import Clock
from forecast.lake.locks import translated_storage_errors
from forecast.lake.maintenance import Table
from forecast.lake.schemas import KEY, TIME
from forecast.lake.table import FILE

RECORDED_AT = "recorded_at"


class Superseded(Table):
    """The superseded rows of one data set, in the columns of its observations, partitioned by month."""

    def __init__(self, location: Path | str, lock: Path, clock: Clock | None) -> None:
        super().__init__(location, lock, "month", clock)

    def append(self, rows: pl.DataFrame) -> None:
        """Add the rows that are not stored yet; they have the columns of the observations' table. Idempotent."""
        if rows.is_empty():
            return
        with self._writing() as latest:
            snapshot = latest
            rows = rows.unique(maintain_order=True)
            values = [name for name in rows.columns if name != "month"]
            if snapshot is not None:
                snapshot = self._extend(snapshot, rows.select(values).schema)
                known = self._rows(
                    snapshot, snapshot.files.filter(pl.col("part").is_in(rows["month"].unique().to_list()))
                ).collect()
                for name in snapshot.schema:
                    if name not in {*rows.columns, RECORDED_AT}:  # a row with a value there is another row
                        known = known.filter(pl.col(name).is_null())
                rows = rows.join(known, on=values, how="anti", nulls_equal=True)
            if len(rows):
                now = pl.lit(self._now(snapshot)).cast(TIME).alias(RECORDED_AT)
                self._append(snapshot, rows.with_columns(now))

    def read(self) -> pl.DataFrame:
        """Return all rows, in the order in which they were recorded."""
        if not self.exists:
            return pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String()), "time": TIME, RECORDED_AT: TIME})
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(None))
            return self._rows(snapshot, snapshot.files).drop(FILE).sort(RECORDED_AT, *KEY).collect()
