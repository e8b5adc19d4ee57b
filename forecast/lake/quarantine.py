"""The rows of a data set that ingestion refused: one Delta table, each row once with its reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from forecast.clock import Clock
from forecast.lake.locks import translated_storage_errors
from forecast.lake.maintenance import Table
from forecast.lake.schemas import QUARANTINE, TIME
from forecast.lake.table import table_location

_MONTH = "month"


class Quarantine(Table):
    """The quarantined rows of one data set, each once with its reason; partitioned by the month of arrival."""

    def __init__(self, lake: Path | str, locks: Path, dataset: str, clock: Clock | None = None) -> None:
        super().__init__(
            table_location(lake, dataset, "quarantine"), locks / f"{dataset}.quarantine.lock", _MONTH, clock
        )

    def append(self, rows: pl.DataFrame) -> int:
        """Add the rows that are not stored yet, and return their number. Idempotent.

        ``rows`` has the columns of :data:`QUARANTINE` without ``recorded_at`` and ``digest``. The same content with the
        same code is stored once, whatever its source.
        """
        with self._writing() as snapshot:
            now = self._now(snapshot)
            pairs = zip(rows["code"], rows["content"], strict=True)
            digests = [hashlib.sha256(f"{code}\n{content}".encode()).hexdigest() for code, content in pairs]
            rows = rows.with_columns(
                pl.lit(now).cast(TIME).alias("recorded_at"), pl.Series("digest", digests, dtype=pl.String)
            )
            rows = rows.match_to_schema(QUARANTINE).unique("digest", keep="first", maintain_order=True)
            if snapshot is not None:
                known = self._rows(snapshot, snapshot.files).select("digest").collect()
                rows = rows.join(known, on="digest", how="anti")
            if len(rows):
                self._append(snapshot, rows.with_columns(pl.lit(now.strftime("%Y-%m")).alias(_MONTH)))
            return len(rows)

    def read(self, *, limit: int | None = None) -> pl.DataFrame:
        """Return the newest ``limit`` rows, or all, in the columns of :data:`QUARANTINE`."""
        if not self.exists:
            return pl.DataFrame(schema=QUARANTINE)
        with translated_storage_errors(self._folder.location):
            snapshot = self._open(self._kept(None))
            rows = self._rows(snapshot, snapshot.files).select(list(QUARANTINE))
            newest = rows.sort("recorded_at", "source", "row", descending=[True, False, False])
            return (newest if limit is None else newest.head(limit)).collect()
