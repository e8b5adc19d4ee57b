"""Which of two rows with one key the table holds: a rule that does not depend on the order in which they come."""

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
_NO_VALUE: Final = 0x7FF8_0000_0000_0F0C  # a NaN that no computation gives: a missing value is not a NaN


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Incoming rows, told apart."""

    new: pl.DataFrame
    changed: pl.DataFrame
    """Rows that replace a stored one, whose place is in ``AT``."""
    outdated: pl.DataFrame
    """Rows that lose to a stored one."""
    unchanged: int


def row_digest(channels: Sequence[str]) -> pl.Expr:
    """Return the SHA-256 of each row's values: the same for equal values, in whatever order the channels stand."""
    names = sorted(channels)
    return pl.struct(pl.col(names)).map_batches(
        lambda rows: _digests(rows.struct.unnest().select(names)), return_dtype=pl.Binary, is_elementwise=True
    )


def unite(rows: pl.DataFrame, before: pl.DataFrame, channels: Sequence[str], conflicts: Conflicts) -> pl.DataFrame:
    """Unite rows that tell only some channels with the ones before them, value by value: a null says nothing.

    Both have the key, unique, ``version`` and the channels. Where both have a value, that of the newer version stays;
    of one version that of ``rows``, or with ``Conflicts.DIGEST`` the one with the larger digest. The version is the
    newer one. Returns ``rows`` that have a row before them, united, with ``ROWS_LOST`` and ``BEFORE_LOST``: whether a
    value of either did not stay.
    """
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
        message = {name: pl.col(name + suffix) for name in channels}
        return pl.any_horizontal([value.is_not_null() & (value != stays[name]) for name, value in message.items()])

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
    """Compare rows that tell only some channels with the stored ones, as :func:`plan_merge` does; see :func:`unite`."""
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
    """Compare rows with the stored ones.

    Both have the key, ``version`` (Int64; null is older than any) and the channels; ``known`` has the rows' places in
    ``AT`` too. A newer version wins, even with equal values: a third one would be judged by the wrong one else. Of one
    version, the row that comes wins if it differs, or with ``Conflicts.DIGEST`` the one with the larger
    :func:`row_digest`.
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
    # A single series comes in order already: to see that costs less than moving every column.
    series, time = (pl.col(name) for name in KEY)
    follows = (series > series.shift()) | ((series == series.shift()) & (time > time.shift()))
    return rows if rows.select(follows.fill_null(value=True).all()).item() else rows.sort(KEY)


def _digests(values: pl.DataFrame) -> pl.Series:
    rows = np.empty((len(values), values.width), ">f8")
    for number, column in enumerate(values):
        numbers = column.cast(pl.Float64).to_numpy() + 0.0  # -0.0 and 0.0 are equal
        numbers[np.isnan(numbers)] = np.nan  # as are all NaNs
        rows[:, number] = numbers
        rows.view(">u8")[column.is_null().to_numpy(), number] = _NO_VALUE
    return pl.Series([hashlib.sha256(row.tobytes()).digest() for row in rows], dtype=pl.Binary)
