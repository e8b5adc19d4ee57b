"""Resolve duplicate keys within a batch; the receipt counts repeated and conflicting rows."""

from __future__ import annotations

import polars as pl

from forecast.config.sources import Source
from forecast.lake.conflicts import BEFORE_LOST, ROWS_LOST, row_digest, unite
from forecast.lake.schemas import KEY, VERSION
from forecast.vocabulary import Conflicts
from pipelines.ingestion.checked_batch import FROM, ROW, CheckedBatch

_ARRIVAL = " arrival"
_ABOUT_ROW = frozenset({_ARRIVAL, FROM, ROW, *KEY, VERSION})


def resolve_duplicates(batch: CheckedBatch, source: Source) -> pl.DataFrame:
    """Sort the rows by key and keep one per key; returns the rows that lost, for the lake's superseded rows.

    The newest version wins. Of equal versions the last row wins, or with ``Conflicts.DIGEST`` the row with the larger
    digest, independent of their order. Rows of a partial source are combined value by value, by the same rule.
    """
    rows, batch.rows = batch.rows.with_row_index(_ARRIVAL), batch.rows.clear()
    rows = _sorted(rows)
    again = pl.all_horizontal([pl.col(key) == pl.col(key).shift(1) for key in KEY])
    again_at = rows.select(again.fill_null(value=False)).to_series()
    if not again_at.any():
        batch.rows = rows.drop(_ARRIVAL)
        return batch.rows.clear()
    shared = rows.filter(again_at | again_at.shift(-1, fill_value=False))
    names = [name for name in rows.columns if name not in {_ARRIVAL, FROM, ROW}]
    distinct = shared.filter(pl.struct(names).is_first_distinct())
    repeats = shared.join(distinct.select(_ARRIVAL), on=_ARRIVAL, how="anti")
    one_of_each = _combined if source.is_partial else _selected
    kept, losers = one_of_each(distinct, source.conflict_rule)
    batch.rows = rows
    batch.flag_rows("repeated", _among(repeats), lambda kept, mask: kept.filter(~mask))
    batch.flag_rows("conflicting", _among(losers), lambda kept, _mask: kept)
    still = batch.rows.filter(_among(distinct))
    if len(still) < len(distinct):  # some were quarantined: resolve the others without them
        kept, losers = one_of_each(still, source.conflict_rule)
    batch.rows = _sorted(pl.concat([batch.rows.filter(~_among(shared)), kept])).drop(_ARRIVAL)
    return losers.drop(_ARRIVAL)


def _among(rows: pl.DataFrame) -> pl.Expr:
    return pl.col(_ARRIVAL).is_in(rows[_ARRIVAL].implode())


def _selected(rows: pl.DataFrame, conflicts: Conflicts) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Select one row per key; returns the selected rows and the others."""
    channels = [name for name in rows.columns if name not in _ABOUT_ROW]
    versions = [pl.col(VERSION)] if VERSION in rows.columns else []
    rule = row_digest(channels) if conflicts is Conflicts.DIGEST else pl.col(_ARRIVAL)
    ranked = rows.sort([*KEY, *versions, rule], nulls_last=False, maintain_order=True)
    winners = ranked.unique(KEY, keep="last", maintain_order=True)
    return winners, ranked.join(winners.select(_ARRIVAL), on=_ARRIVAL, how="anti")


def _combined(rows: pl.DataFrame, conflicts: Conflicts) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Combine the rows of each key; returns the combined rows, and the rows that lost a value."""
    columns = rows.columns
    channels = [name for name in columns if name not in _ABOUT_ROW]
    if VERSION not in columns:
        rows = rows.with_columns(pl.lit(None, pl.Int64).alias(VERSION))
    # Combine in rounds: round n adds the n-th row of each key to the rows combined so far.
    nth = pl.int_range(pl.len()).over(KEY, order_by=_ARRIVAL)
    most = rows.select(nth.max()).item() or 0
    whole, lost = rows.filter(nth == 0), [rows.clear()]
    for number in range(1, most + 1):
        part = rows.filter(nth == number)
        both = unite(part, whole, channels, conflicts)
        key = list(KEY)
        lost.append(part.join(both.filter(ROWS_LOST).select(key), on=key, how="semi"))
        lost.append(whole.join(both.filter(BEFORE_LOST).select(key), on=key, how="semi"))
        rest = whole.join(part.select(key), on=key, how="anti")
        whole = pl.concat([rest, both.select(rest.columns)])
    return whole.select(columns), pl.concat(lost).select(columns).unique(_ARRIVAL, maintain_order=True)


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by key, one column at a time, so that a large batch is never in memory twice."""
    order = rows.select(pl.arg_sort_by(KEY, maintain_order=True)).to_series()
    columns = []
    for name in rows.columns:
        columns.append(rows[name].gather(order))
        rows = rows.drop(name)
    return pl.DataFrame(columns)
