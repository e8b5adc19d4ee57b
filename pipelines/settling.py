"""Rows with one key become one, by a rule that the receipt tells."""

from __future__ import annotations

import polars as pl

from forecast.merging import KEY, row_digest
from forecast.vocabulary import Conflicts
from pipelines.sieve import Sieve

_ARRIVAL = " arrival"


def settle(sieve: Sieve, conflicts: Conflicts) -> pl.DataFrame:
    """Sort the rows by key and leave one of each; returns the others, which the lake's history keeps.

    The newest version stays; of one version the row that came last, or with ``Conflicts.DIGEST`` the one with the
    larger digest, whatever the order they came in.
    """
    rows, sieve.rows = sieve.rows.with_row_index(_ARRIVAL), sieve.rows.clear()
    rows = _sorted(rows)
    names = rows.columns[2:]  # without arrival and row
    again = pl.all_horizontal([pl.col(key) == pl.col(key).shift(1) for key in KEY])
    again_at = rows.select(again.fill_null(value=False)).to_series()
    sieve.rows = rows.drop(_ARRIVAL)
    if not again_at.any():
        return sieve.rows.clear()
    is_shared = again_at | again_at.shift(-1, fill_value=False)
    shared = rows.filter(is_shared)
    distinct = shared.filter(pl.struct(names).is_first_distinct())
    versions = [pl.col("version")] if "version" in names else []
    by_rule = (
        [row_digest([name for name in names if name not in {*KEY, "version"}])]
        if conflicts is Conflicts.DIGEST
        else [pl.col(_ARRIVAL)]
    )
    ranked = distinct.sort([*KEY, *versions, *by_rule], nulls_last=False, maintain_order=True)
    winners = ranked.unique(KEY, keep="last", maintain_order=True)
    losers = ranked.join(winners.select(_ARRIVAL), on=_ARRIVAL, how="anti")
    repeats = shared.join(distinct.select(_ARRIVAL), on=_ARRIVAL, how="anti")
    arrival = pl.col(_ARRIVAL)
    whole = rows
    for name, found in (("repeated", repeats), ("conflicting", losers)):
        sieve.rows = whole
        sieve.rows_where(name, arrival.is_in(found[_ARRIVAL].implode()), lambda kept, mask: kept.filter(~mask))
        whole = sieve.rows
    sieve.rows = whole.drop(_ARRIVAL)
    return losers.drop(_ARRIVAL)


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by key, a column at a time: of a large batch there is never more than one column twice."""
    order = rows.select(pl.arg_sort_by(KEY, maintain_order=True)).to_series()
    columns = []
    for name in rows.columns:
        columns.append(rows[name].gather(order))
        rows = rows.drop(name)
    return pl.DataFrame(columns)
