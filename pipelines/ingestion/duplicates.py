"""Rows with one key become one, by a rule that the receipt tells."""

from __future__ import annotations

import polars as pl

from forecast.config.sources import Source
from forecast.lake.conflicts import BEFORE_LOST, ROWS_LOST, row_digest, unite
from forecast.lake.schemas import KEY, VERSION
from forecast.vocabulary import Conflicts
from pipelines.ingestion.checked_batch import FROM, ROW, CheckedBatch

_ARRIVAL = " arrival"
_ABOUT_ROW = frozenset({_ARRIVAL, FROM, ROW, *KEY, VERSION})


def resolve_duplicates(sieve: CheckedBatch, source: Source) -> pl.DataFrame:
    """Sort the rows by key and leave one of each; returns those that lost, which the lake's history keeps.

    The newest version stays; of one version the row that came last, or with ``Conflicts.DIGEST`` the one with the
    larger digest, whatever the order they came in. Rows of a partial source are united value by value by that rule.
    """
    rows, sieve.rows = sieve.rows.with_row_index(_ARRIVAL), sieve.rows.clear()
    rows = _sorted(rows)
    again = pl.all_horizontal([pl.col(key) == pl.col(key).shift(1) for key in KEY])
    again_at = rows.select(again.fill_null(value=False)).to_series()
    if not again_at.any():
        sieve.rows = rows.drop(_ARRIVAL)
        return sieve.rows.clear()
    shared = rows.filter(again_at | again_at.shift(-1, fill_value=False))
    names = [name for name in rows.columns if name not in {_ARRIVAL, FROM, ROW}]
    distinct = shared.filter(pl.struct(names).is_first_distinct())
    repeats = shared.join(distinct.select(_ARRIVAL), on=_ARRIVAL, how="anti")
    one_of_each = _united if source.is_partial else _chosen
    kept, losers = one_of_each(distinct, source.conflict_rule)
    sieve.rows = rows
    sieve.rows_where("repeated", _among(repeats), lambda kept, mask: kept.filter(~mask))
    sieve.rows_where("conflicting", _among(losers), lambda kept, _mask: kept)
    still = sieve.rows.filter(_among(distinct))
    if len(still) < len(distinct):  # some were put aside: they have no part in the others
        kept, losers = one_of_each(still, source.conflict_rule)
    sieve.rows = _sorted(pl.concat([sieve.rows.filter(~_among(shared)), kept])).drop(_ARRIVAL)
    return losers.drop(_ARRIVAL)


def _among(rows: pl.DataFrame) -> pl.Expr:
    return pl.col(_ARRIVAL).is_in(rows[_ARRIVAL].implode())


def _chosen(rows: pl.DataFrame, conflicts: Conflicts) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Choose one of the rows with each key; returns the chosen and the others."""
    channels = [name for name in rows.columns if name not in _ABOUT_ROW]
    versions = [pl.col(VERSION)] if VERSION in rows.columns else []
    rule = row_digest(channels) if conflicts is Conflicts.DIGEST else pl.col(_ARRIVAL)
    ranked = rows.sort([*KEY, *versions, rule], nulls_last=False, maintain_order=True)
    winners = ranked.unique(KEY, keep="last", maintain_order=True)
    return winners, ranked.join(winners.select(_ARRIVAL), on=_ARRIVAL, how="anti")


def _united(rows: pl.DataFrame, conflicts: Conflicts) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Unite the rows with each key; returns the united rows, and those of which a value did not stay."""
    columns = rows.columns
    channels = [name for name in columns if name not in _ABOUT_ROW]
    if VERSION not in columns:
        rows = rows.with_columns(pl.lit(None, pl.Int64).alias(VERSION))
    turn = pl.int_range(pl.len()).over(KEY, order_by=_ARRIVAL)
    most = rows.select(turn.max()).item() or 0
    whole, lost = rows.filter(turn == 0), [rows.clear()]
    for number in range(1, most + 1):
        part = rows.filter(turn == number)
        both = unite(part, whole, channels, conflicts)
        key = list(KEY)
        lost.append(part.join(both.filter(ROWS_LOST).select(key), on=key, how="semi"))
        lost.append(whole.join(both.filter(BEFORE_LOST).select(key), on=key, how="semi"))
        rest = whole.join(part.select(key), on=key, how="anti")
        whole = pl.concat([rest, both.select(rest.columns)])
    return whole.select(columns), pl.concat(lost).select(columns).unique(_ARRIVAL, maintain_order=True)


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by key, a column at a time: of a large batch there is never more than one column twice."""
    order = rows.select(pl.arg_sort_by(KEY, maintain_order=True)).to_series()
    columns = []
    for name in rows.columns:
        columns.append(rows[name].gather(order))
        rows = rows.drop(name)
    return pl.DataFrame(columns)
