"""One batch under validation: the remaining rows, the findings of the checks, and the quarantined rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from forecast.config.checks import CHECKS, action
from forecast.errors import DataError
from forecast.lake.schemas import QUARANTINE
from forecast.ledger.receipts import IngestFinding
from forecast.vocabulary import Action
from pipelines.sources import Batch

ROW = "row"
FROM = " from"
"""Column of several batches combined: the name of the batch that a row came with."""
_SHOWN = 3

Repair = Callable[[pl.DataFrame, pl.Series], pl.DataFrame]
"""A function of the rows and the mask of the wrong ones that returns the repaired rows."""


class CheckedBatch:
    """A batch whose wrong rows each check repairs, quarantines, reports or rejects, as the config file says.

    >>> rows = pl.DataFrame({"row": [1, 2], "series": ["a", None], "time": ["2024-01-01", "2024-01-02"]})
    >>> batch = CheckedBatch(Batch(name="a.csv", rows=rows, digest=""), {})
    >>> batch.flag_rows("null_key", pl.col("series").is_null())
    >>> (len(batch.rows), batch.quarantined["row"].to_list(), batch.findings[0].first)
    (1, [2], ('a.csv row 2: 2024-01-02',))
    """

    def __init__(self, batch: Batch, chosen: Mapping[str, Action], *, echo: bool = True) -> None:
        self.rows = batch.rows
        self.name = batch.name
        self._echo = echo  # whether findings repeat the values, or only their place
        self.findings: list[IngestFinding] = []
        self._chosen = chosen
        self._raw: pl.DataFrame | None = batch.rows
        self._quarantined: list[pl.DataFrame] = []

    @property
    def quarantined(self) -> pl.DataFrame:
        """Quarantined rows: row, code, reason, series, time, and the whole row as received."""
        return pl.concat([pl.DataFrame(schema=QUARANTINED), *self._quarantined])

    def finish(self) -> None:
        """Release the rows as received; rows quarantined from now on are stored in their present form."""
        self._raw = None

    def flag_rows(self, name: str, wrong: pl.Expr, repair: Repair | None = None) -> None:
        """Apply the action of a check to the rows for which a condition holds.

        Raises ``ingest.<name>`` if the action is to reject.
        """
        mask = self.rows.select(wrong.fill_null(value=False)).to_series()
        if mask.any():
            self._act(name, mask, self._places(self.rows.filter(mask).head(_SHOWN)), repair, int(mask.sum()))

    def flag_values(
        self, name: str, wrong: Mapping[str, pl.Expr], repaired: Mapping[str, pl.Expr] | None = None
    ) -> None:
        """Apply the action of a check to values, given a condition per channel.

        A repair replaces a value by the channel's expression in ``repaired``, or by null. Raises ``ingest.<name>`` if
        the action is to reject.
        """
        if not wrong:
            return
        conditions = {channel: condition.fill_null(value=False) for channel, condition in wrong.items()}
        counts = self.rows.select(condition.sum().alias(channel) for channel, condition in conditions.items()).row(
            0, named=True
        )
        found = {channel: conditions[channel] for channel, count in counts.items() if count}
        if not found:
            return
        places: list[str] = []
        for channel, condition in found.items():
            places += self._places(self.rows.filter(condition).head(_SHOWN), channel)

        def repair(rows: pl.DataFrame, _mask: pl.Series) -> pl.DataFrame:
            return rows.with_columns(
                pl.when(~condition).then(pl.col(channel)).otherwise((repaired or {}).get(channel)).alias(channel)
                for channel, condition in found.items()
            )

        mask = self.rows.select(pl.any_horizontal(list(found.values()))).to_series()
        self._act(name, mask, tuple(places[:_SHOWN]), repair, sum(counts[channel] for channel in found))

    def report(self, name: str, count: int, first: tuple[str, ...]) -> None:
        """Report a finding that concerns no single row; raise ``ingest.<name>`` if the action is to reject."""
        done = action(name, self._chosen)
        if done is Action.REJECT:
            raise self._error(name, count, first)
        self._find(name, done, count, CHECKS[name].message, first)

    def _act(self, name: str, mask: pl.Series, first: tuple[str, ...], repair: Repair | None, count: int) -> None:
        done = action(name, self._chosen)
        if done is Action.REJECT:
            raise self._error(name, count, first)
        message = CHECKS[name].message
        if done is Action.REPAIR and repair is not None:
            self.rows = repair(self.rows, mask)
            message += f": {CHECKS[name].repair}"
        elif done is Action.QUARANTINE:
            self._quarantined.append(self._as_received(self.rows.filter(mask), f"ingest.{name}", message))
            self.rows = self.rows.filter(~mask)
        self._find(name, done, count, message, first)

    def _find(self, name: str, done: Action, count: int, message: str, first: tuple[str, ...]) -> None:
        self.findings.append(
            IngestFinding(code=f"ingest.{name}", action=done, count=count, message=message, first=first)
        )

    def _as_received(self, bad: pl.DataFrame, code: str, reason: str) -> pl.DataFrame:
        received = bad if self._raw is None else self._raw.filter(pl.col(ROW).is_in(bad[ROW].implode()))
        shown = [name for name in received.columns if name != ROW]
        return received.select(
            pl.col(ROW).cast(pl.Int64),
            pl.lit(code).alias("code"),
            pl.lit(reason).alias("reason"),
            pl.col("series").cast(pl.String, strict=False),
            pl.col("time").cast(pl.String, strict=False),
            pl.struct(pl.col(shown).cast(pl.String, strict=False)).struct.json_encode().alias("content"),
        )

    def _error(self, name: str, count: int, first: tuple[str, ...]) -> DataError:
        return DataError(
            f"ingest.{name}",
            f"{CHECKS[name].message}: {count}, such as {first[0] if first else self.name}",
            f'correct the source, or set another action for "{name}" under checks in the config file',
        )

    def _places(self, rows: pl.DataFrame, cell: str = "") -> tuple[str, ...]:
        if not self._echo:
            return tuple(f"{self.name} row {row} {cell}".rstrip() for row in rows[ROW])
        wanted = [ROW, "series", "time", *([cell] if cell else []), *([FROM] if FROM in rows.columns else [])]
        return tuple(
            " ".join(
                [f"{place.get(FROM, self.name)} row {place[ROW]}:"]
                + [_cut(place[key]) for key in ("series", "time") if key != cell and place[key] is not None]
                + ([f"{cell}={_cut(place[cell])}"] if cell else [])
            ).removesuffix(":")
            for place in rows.select(list(dict.fromkeys(wanted))).to_dicts()
        )


def _cut(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


QUARANTINED = pl.Schema(
    {name: dtype for name, dtype in QUARANTINE.items() if name not in {"recorded_at", "source", "digest"}}
)
"""Columns of a quarantined row within a batch: those of the quarantine without source and time of recording."""
