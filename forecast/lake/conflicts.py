"""Resolve conflicts between rows with the same key, by a rule that does not depend on their order of arrival."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from forecast.lake.schemas import KEY, VERSION
from forecast.vocabulary import Conflicts

AT: Final = " at"  # no channel's name has a space
ROWS_LOST: Final = " rows lost"
BEFORE_LOST: Final = " before lost"
_BEFORE: Final = " before"
_NO_VALUE: Final = 0x7FF8_0000_0000_0F0C  # a NaN that no computation yields: a missing value differs from NaN


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Incoming rows by what a merge does with them."""

    new: pl.DataFrame
    changed: pl.DataFrame
    """Rows that replace a stored one; ``AT`` is the number of the stored row."""
    outdated: pl.DataFrame
    """Rows that lose to a stored one."""
    unchanged: int


def row_digest(channels: Sequence[str]) -> pl.Expr:
    """Return an expression for the SHA-256 of each row's values, independent of the order of the channels.

    >>> rows = pl.DataFrame({"load": [1.0, 1.0, 2.0], "price": [None, None, 3.0]})
    >>> rows.select(row_digest(["load", "price"])).to_series().n_unique()
    2
    """
    names = sorted(channels)
    return pl.struct(pl.col(names)).map_batches(
        lambda rows: _digests(rows.struct.unnest().select(names)), return_dtype=pl.Binary, is_elementwise=True
    )


def unite(rows: pl.DataFrame, before: pl.DataFrame, channels: Sequence[str], conflicts: Conflicts) -> pl.DataFrame:
    """Combine partial rows with the earlier rows of the same key, value by value; a null is no value.

    Both frames have a unique key, ``version`` and the channels. Where both have a value, the newer version wins; of
    equal versions ``rows`` wins, or with ``Conflicts.DIGEST`` the value with the larger digest. The result has the
    newer version. Returns the combined rows of the keys that are in both frames, with ``ROWS_LOST`` and
    ``BEFORE_LOST``: whether a value of ``rows`` or of ``before`` was replaced.
    """
    #            version  load  price
    #   before         1   5.0    7.0
    #   rows           2   6.0   null
    #   united         2   6.0    7.0   BEFORE_LOST: the load of 5.0 was replaced
    both = rows.join(before.select(*KEY, VERSION, *channels), on=list(KEY), suffix=_BEFORE, maintain_order="left")
    version, then = pl.col(VERSION), pl.col(VERSION + _BEFORE)
    is_older = (then.is_not_null() & (version.is_null() | (version < then))).fill_null(value=False)
    is_tied = version.eq_missing(then)
    stays: dict[str, pl.Expr] = {}
    for name in channels:
        value, known = pl.col(name), pl.col(name + _BEFORE)
        loses = is_older
        differs = value.is_not_null() & known.is_not_null() & (value != known)
        if conflicts is Conflicts.DIGEST and both.select((is_tied & differs).any()).item():
            smaller = (
                both.select(row_digest([name])).to_series()
                < both.select(known.alias(name)).select(row_digest([name])).to_series()
            )
            loses = is_older | (is_tied & pl.lit(smaller))
        stays[name] = pl.when(loses).then(pl.coalesce(known, value)).otherwise(pl.coalesce(value, known))

    def lost(suffix: str) -> pl.Expr:
        values = {name: pl.col(name + suffix) for name in channels}
        return pl.any_horizontal([value.is_not_null() & (value != stays[name]) for name, value in values.items()])

    columns = [name for name in rows.columns if name not in {VERSION, *channels}]
    return both.select(
        *columns,
        pl.max_horizontal(version, then).alias(VERSION),
        *[expression.alias(name) for name, expression in stays.items()],
        lost("").fill_null(value=False).alias(ROWS_LOST),
        lost(_BEFORE).fill_null(value=False).alias(BEFORE_LOST),
    )


def plan_partial_merge(
    rows: pl.DataFrame, known: pl.DataFrame, channels: Sequence[str], conflicts: Conflicts
) -> MergePlan:
    """Plan the merge of rows that have only some channels: :func:`plan_merge` by the rule of :func:`unite`."""
    key, columns = list(KEY), [*KEY, VERSION, *channels]
    united = unite(rows, known, channels, conflicts).join(known.select(*KEY, AT), on=key, maintain_order="left")
    same = united.join(known, on=columns, how="semi", nulls_equal=True)
    changed = united.join(same.select(KEY), on=key, how="anti", maintain_order="left")
    return MergePlan(
        new=rows.join(known, on=key, how="anti", maintain_order="left").select(columns),
        changed=changed.select([*columns, AT]),
        outdated=rows.join(united.filter(ROWS_LOST).select(KEY), on=key, how="semi", maintain_order="left").select(
            columns
        ),
        unchanged=len(same),
    )


def plan_merge(rows: pl.DataFrame, known: pl.DataFrame, channels: Sequence[str], conflicts: Conflicts) -> MergePlan:
    """Compare incoming rows with the stored ones, and plan what the merge does with each.

    Both frames have the key, ``version`` (Int64; null is older than any) and the channels; ``known`` has the number of
    each stored row in ``AT`` too. A newer version wins even with equal values, because later rows are compared with the
    stored version. Of equal versions the incoming row wins if it differs, or with ``Conflicts.DIGEST`` the row with the
    larger :func:`row_digest`.

    >>> known = pl.DataFrame({"series": "a", "time": [1, 2], "version": [1, 1], "load": [5.0, 5.0], AT: [0, 1]})
    >>> rows = pl.DataFrame({"series": "a", "time": [1, 2, 3], "version": [0, 2, 1], "load": [6.0, 6.0, 6.0]})
    >>> plan = plan_merge(rows, known, ["load"], Conflicts.LATEST)
    >>> [frame["time"].to_list() for frame in (plan.new, plan.changed, plan.outdated)]
    [[3], [2], [1]]
    """
    compared = rows.join(known, on=list(KEY), how="left", suffix=_BEFORE, coalesce=True)
    then = pl.col(VERSION + _BEFORE)
    is_newer = pl.col(VERSION).is_not_null() & (then.is_null() | (pl.col(VERSION) > then))
    is_older = then.is_not_null() & (pl.col(VERSION).is_null() | (pl.col(VERSION) < then))
    differs = pl.any_horizontal([~pl.col(name).eq_missing(pl.col(name + _BEFORE)) for name in channels])
    case = (
        pl.when(pl.col(AT).is_null()).then(pl.lit("new"))
        .when(is_newer.fill_null(value=False)).then(pl.lit("changed"))
        .when(is_older.fill_null(value=False)).then(pl.lit("outdated"))
        .when(differs).then(pl.lit("tied"))
        .otherwise(pl.lit("unchanged"))
    )  # fmt: skip
    cases = compared.with_columns(case.alias(" case")).partition_by(" case", as_dict=True, include_key=False)
    parts = {str(key[0]): part for key, part in cases.items()}
    nothing = compared.clear()
    changed, outdated = parts.get("changed", nothing), parts.get("outdated", nothing)
    tied = parts.get("tied", nothing)
    wins = pl.Series([True]).new_from_index(0, len(tied))
    if conflicts is Conflicts.DIGEST and len(tied):
        before = tied.select(pl.col([name + _BEFORE for name in channels]).name.map(lambda name: name[: -len(_BEFORE)]))
        wins = tied.select(row_digest(channels)).to_series() > before.select(row_digest(channels)).to_series()
    columns = [*KEY, VERSION, *channels]
    return MergePlan(
        new=parts.get("new", nothing).select(columns),
        changed=pl.concat([changed, tied.filter(wins)]).select([*columns, AT]),
        outdated=pl.concat([outdated, tied.filter(~wins)]).select(columns),
        unchanged=len(parts.get("unchanged", nothing)),
    )


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows sorted by key."""
    # One series comes sorted already: checking that costs less than moving every column.
    series, time = (pl.col(name) for name in KEY)
    follows = (series > series.shift()) | ((series == series.shift()) & (time > time.shift()))
    return rows if rows.select(follows.fill_null(value=True).all()).item() else rows.sort(KEY)


def _digests(values: pl.DataFrame) -> pl.Series:
    rows = np.empty((len(values), values.width), ">f8")
    for number, column in enumerate(values):
        numbers = column.cast(pl.Float64).to_numpy() + 0.0  # -0.0 and 0.0 are equal
        numbers[np.isnan(numbers)] = np.nan  # all NaNs are equal too
        rows[:, number] = numbers
        rows.view(">u8")[column.is_null().to_numpy(), number] = _NO_VALUE
    return pl.Series([hashlib.sha256(row.tobytes()).digest() for row in rows], dtype=pl.Binary)
