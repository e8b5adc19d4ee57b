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
    """The rows of one data set that were put aside, each once, with the reason; by month of their recording."""

    def __init__(self, lake: Path | str, locks: Path, dataset: str, clock: Clock | None = None) -> None:
        super().__init__(
            table_location(lake, dataset, "quarantine"), locks / f"{dataset}.quarantine.lock", _MONTH, clock
        )

    def append(self, rows: pl.DataFrame) -> int:
        """Keep those rows that are not there yet, and return how many that were.

        ``rows`` has the columns of :data:`QUARANTINE` but ``recorded_at`` and ``digest``. One row's content is kept
        once for one reason, from whatever source and however often it comes.
        """
        with self._writing() as at:
            now = self._now(at)
            message = zip(rows["code"], rows["content"], strict=True)
            digests = [hashlib.sha256(f"{code}\n{content}".encode()).hexdigest() for code, content in message]
            rows = rows.with_columns(
                pl.lit(now).cast(TIME).alias("recorded_at"), pl.Series("digest", digests, dtype=pl.String)
            )
            rows = rows.match_to_schema(QUARANTINE).unique("digest", keep="first", maintain_order=True)
            if at is not None:
                known = self._rows(at, at.files).select("digest").collect()
                rows = rows.join(known, on="digest", how="anti")
            if len(rows):
                self._append(at, rows.with_columns(pl.lit(now.strftime("%Y-%m")).alias(_MONTH)))
            return len(rows)

    def read(self, *, limit: int | None = None) -> pl.DataFrame:
        """Return the newest rows, or all, in the columns of :data:`QUARANTINE`; none if nothing was ever put aside."""
        if not self.exists:
            return pl.DataFrame(schema=QUARANTINE)
        with translated_storage_errors(self._folder.location):
            at = self._open(self._kept(None))
            rows = self._rows(at, at.files).select(list(QUARANTINE))
            newest = rows.sort("recorded_at", "source", "row", descending=[True, False, False])
            return (newest if limit is None else newest.head(limit)).collect()
