"""The observations of a data set: one wide Delta table, and the history of the rows that lost a conflict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from forecast.clock import Clock
from forecast.errors import DataError
from forecast.lake.channel_columns import ChannelNames
from forecast.lake.conflicts import AT, MergePlan, in_order, plan_merge, plan_partial_merge
from forecast.lake.locks import translated_storage_errors
from forecast.lake.maintenance import Checked, Maintained, Table
from forecast.lake.schemas import KEY, TIME, VERSION
from forecast.lake.superseded import RECORDED_AT, Superseded
from forecast.lake.table import FILE, MANY_FILES, Snapshot, table_location
from forecast.vocabulary import Conflicts

_MONTH = "month"
_ABOUT_ROW = frozenset({*KEY, _MONTH, VERSION})


@dataclass(frozen=True, slots=True)
class MergeCount:
    """Number of rows by the outcome of a merge."""

    new: int
    changed: int
    """Rows that replaced a stored one: other values, or the same under a newer version."""
    unchanged: int
    outdated: int
    """Rows that lost to a stored one; :meth:`Observations.superseded` returns them."""
    version: int
    """Version of the table after the merge; the same as before if no row was new or changed."""


_ENDED = timedelta(days=31)
"""A series without a value for this long counts as ended."""


class Observations(Table):
    """The observations of one data set: wide, keyed by (series, time), partitioned by month of UTC time.

    ``lake`` is a folder or the URL of an object store, ``locks`` always a folder of this machine.
    """

    def __init__(
        self, lake: Path | str, locks: Path, dataset: str, channels: Sequence[str], clock: Clock | None = None
    ) -> None:
        super().__init__(
            table_location(lake, dataset, "observations"), locks / f"{dataset}.observations.lock", _MONTH, clock
        )
        self._superseded = Superseded(
            table_location(lake, dataset, "superseded"), locks / f"{dataset}.superseded.lock", clock
        )
        self._dataset = dataset
        self._channels = tuple(channels)

    def merge(
        self,
        rows: pl.DataFrame,
        *,
        conflicts: Conflicts = Conflicts.LATEST,
        partial: bool = False,
        outdated: pl.DataFrame | None = None,
    ) -> MergeCount:
        """Insert new rows and replace stored rows that lose to them, in one commit. Idempotent.

        ``rows`` has the key, the channels, and ``version`` (Int64, nullable) if the source has one. Keys are unique and
        have no null; times are UTC. The caller has checked this already; it is checked again here because Delta would
        accept such rows. A newer version replaces a stored row (null is older than any version); between equal versions
        ``conflicts`` decides. ``partial`` rows have only some channels: a null keeps the stored value. ``outdated``
        rows have lost already, whatever their keys: they only go to :meth:`superseded`.

        Raises ``lake.schema``, ``lake.null_key``, ``lake.duplicate_key`` and ``lake.channels_changed``.
        """
        rows = self._checked(rows)
        lost = rows.clear() if outdated is None else self._checked(outdated, unique=False)
        with self._writing() as snapshot:
            names = self._names(snapshot)
            names.require(self._channels, self._folder.location, self._dataset)
            if snapshot is None:
                self._superseded.append(self._stored(lost, names))
                version = self._append(None, self._stored(rows, names))
                return MergeCount(len(rows), 0, 0, 0, version)
            months = rows.select(_month()).to_series().unique().to_list()
            known = (
                self._rows(snapshot, snapshot.files.filter(pl.col("part").is_in(months))).collect().with_row_index(AT)
            )
            # Compare only the rows between the first and the last new one: few, late in a month.
            near = known.filter(pl.col("time").is_between(rows["time"].min(), rows["time"].max()))
            stored = near.select(*KEY, _version(known.schema), *_by_name(names, self._channels, known.schema), AT)
            plan = (plan_partial_merge if partial else plan_merge)(rows, stored, self._channels, conflicts)
            # Before the commit: once it is acknowledged, the source does not send the outdated rows again.
            self._superseded.append(self._stored(pl.concat([lost, plan.outdated]), names))
            version = snapshot.version
            if len(plan.new) or len(plan.changed):
                version = self._replace(snapshot, known, plan, names)
            return MergeCount(len(plan.new), len(plan.changed), plan.unchanged, len(plan.outdated), version)

    def read(
        self,
        *,
        version: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        channels: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return rows with ``since <= time < until``, sorted by key, of the latest or the given version.

        Columns: ``series``, ``time`` and the channels, under their present names for every version. Reads only files of
        the requested months.
        """
        channels = self._channels if channels is None else tuple(channels)
        with translated_storage_errors(self._folder.location):
            latest = self._kept(None)
            snapshot = self._open(self._kept(version))
            names = self._names(snapshot if snapshot.version == latest else self._open(latest))
            names.require(channels, self._folder.location, self._dataset)
            files = snapshot.files.filter(_within(pl.col("part"), since, until)).sort("part")
            rows = self._rows(snapshot, files).select(*KEY, *_by_name(names, channels, snapshot.schema)).collect()
        # Only rows of the first and last month can lie outside: filtering the frame is cheaper than reading every
        # column through a mask.
        if since is not None:
            rows = rows.filter(pl.col("time") >= since)
        if until is not None:
            rows = rows.filter(pl.col("time") < until)
        return in_order(rows)

    def watermark(self, channels: Sequence[str]) -> datetime | None:
        """Return the newest time up to which every series has values in all of the channels.

        A series or channel without a value in the newest 31 days counts as ended and is ignored. Returns ``None`` if
        there is no value at all.
        """
        if not self.exists:
            return None
        observed = pl.any_horizontal(pl.col(*channels).is_not_null())
        until = self.read(channels=channels).filter(observed).select(pl.col("time").max()).item()
        if until is None:
            return None
        rows = self.read(channels=channels, since=until - _ENDED)
        times = [pl.col("time").filter(pl.col(name).is_not_null()).max().alias(name) for name in channels]
        found = rows.group_by("series").agg(times).select(pl.min_horizontal(*channels)).to_series().min()
        return found if isinstance(found, datetime) else None

    def require_channels(self) -> None:
        """Raise ``lake.channels_changed`` if the table lacks a channel of the config file."""
        with translated_storage_errors(self._folder.location):
            names = self._names(self._open(self._kept(None)))
        names.require(self._channels, self._folder.location, self._dataset)

    def superseded(self) -> pl.DataFrame:
        """Return the rows that lost to another row on arrival: key, version, channels, ``recorded_at``."""
        with translated_storage_errors(self._folder.location):
            names = self._names(self._open(self._kept(None)))
        kept = self._superseded.read()
        return kept.select(*KEY, _version(kept.schema), *_by_name(names, self._channels, kept.schema), RECORDED_AT)

    def add_channel(self, name: str) -> None:
        """Add an empty channel; a retired channel comes back with its values."""
        with self._changing() as snapshot:
            names = self._names(snapshot).with_added(name, snapshot.schema)
            self._save_names(self._extend(snapshot, pl.Schema({names.used[name]: pl.Float64()})), names)

    def rename_channel(self, old: str, new: str) -> None:
        """Rename a channel in every version, without rewriting a value."""
        with self._changing() as snapshot:
            self._save_names(snapshot, self._names(snapshot).with_renamed(old, new))

    def retire_channel(self, name: str) -> None:
        """Retire a channel: it is neither read nor written until it is added again. Its values stay."""
        with self._changing() as snapshot:
            self._save_names(snapshot, self._names(snapshot).with_retired(name))

    def maintain(self, retention: timedelta, now: datetime) -> Maintained:
        """Maintain the table, and compact its superseded rows, which are kept for ever."""
        done = super().maintain(retention, now)
        self._superseded.maintain(retention, now)
        return done

    def check(self) -> Checked:
        """Check the table and its superseded rows."""
        return super().check() + self._superseded.check()

    @contextmanager
    def _changing(self) -> Iterator[Snapshot]:
        with self._writing() as snapshot:
            yield snapshot or self._open(self._kept(None))  # raises lake.no_table

    def _arranged(self, rows: pl.DataFrame) -> pl.DataFrame:
        return in_order(rows)

    def _names(self, snapshot: Snapshot | None) -> ChannelNames:
        if snapshot is None:
            return ChannelNames.of({}, self._channels)
        return ChannelNames.of(
            snapshot.table.metadata().configuration, (each for each in snapshot.schema if each not in _ABOUT_ROW)
        )

    def _save_names(self, snapshot: Snapshot, names: ChannelNames) -> None:
        if names != self._names(snapshot):
            self._alter(
                snapshot,
                lambda table, commit, hooks: table.alter.set_table_properties(
                    names.property(),
                    raise_if_not_exists=False,
                    commit_properties=commit,
                    post_commithook_properties=hooks,
                ),
            )

    def _stored(self, rows: pl.DataFrame, names: ChannelNames) -> pl.DataFrame:
        """Return rows in the stored layout: channels in their columns, ``version`` if any row has one, the month."""
        has_version = rows[VERSION].is_not_null().any()
        columns = [pl.col(name).alias(names.used[name]) for name in self._channels]
        return rows.select(*KEY, *([VERSION] if has_version else []), *columns, _month())

    def _replace(self, snapshot: Snapshot, known: pl.DataFrame, plan: MergePlan, names: ChannelNames) -> int:
        """Write the new and changed rows of each month, together with the other rows of every replaced file.

        ``known`` holds the stored rows of the affected months, with their number in ``AT`` and their file in ``FILE``.
        """
        # A Delta file cannot be edited, so each file that holds a changed row is written again without that row:
        #
        #   month    replaced files                        one new file
        #   2024-01  a (1 of 3 rows changes), b (small)    rest of a + all of b + changed + new rows
        #   2024-02  -                                     new rows
        #
        # Small files like b are replaced once their month has 32 of them.
        changed = self._stored(plan.changed, names)
        ours = [names.used[name] for name in self._channels]
        others = [name for name in snapshot.schema if name not in {*ours, *_ABOUT_ROW}]
        before = known[plan.changed[AT]]
        if others:  # channels that the config file does not name keep their values
            changed = changed.hstack(before.select(others))
        fresh = pl.concat([changed, self._stored(plan.new, names)], how="diagonal")
        snapshot = self._extend(
            snapshot, pl.Schema({name: dtype for name, dtype in fresh.schema.items() if name != _MONTH})
        )
        months = fresh.partition_by(_MONTH, as_dict=True, include_key=False).items()
        frames = {str(key[0]): part for key, part in months}
        place = pl.concat_str(pl.lit(self._folder.place("")), "name").alias(FILE)
        held = snapshot.files.filter(place.is_in(before[FILE].unique().to_list()))
        replaced = pl.concat([held, snapshot.small(frames, MANY_FILES)]).unique("name")
        is_kept = pl.repeat(value=True, n=len(known), eager=True).scatter(plan.changed[AT], values=False)
        kept = known.filter(is_kept).drop(AT)
        for part in replaced["part"].unique():
            files = replaced.filter(pl.col("part") == part).select(place).to_series().to_list()
            rest = kept.filter(pl.col(FILE).is_in(files)).drop(FILE)
            frames[part] = pl.concat([rest, frames[part]], how="diagonal")
        return self._commit(snapshot, frames.items(), replaced)

    def _checked(self, rows: pl.DataFrame, *, unique: bool = True) -> pl.DataFrame:
        """Return rows with the columns that the merge needs; raise if types, nulls or keys are wrong."""
        schema = {"series": pl.String(), "time": TIME} | {name: pl.Float64() for name in self._channels}
        wrong = {
            name: dtype for name, dtype in rows.schema.items() if ({VERSION: pl.Int64()} | schema).get(name) != dtype
        }
        missing = [name for name in schema if name not in rows.columns]
        if wrong or missing:
            raise DataError("lake.schema", f"the columns do not fit the table: wrong {wrong}, missing {missing}")
        if rows.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
            raise DataError("lake.null_key", "a row has no series or no time")
        if unique and _repeats_a_key(rows):
            raise DataError("lake.duplicate_key", "two rows have the same series and time")
        return rows.select(*KEY, _version(rows.schema), *self._channels)


def _version(schema: pl.Schema) -> pl.Expr:
    return pl.col(VERSION) if VERSION in schema else pl.lit(None, pl.Int64).alias(VERSION)


def _by_name(names: ChannelNames, channels: Sequence[str], schema: pl.Schema) -> list[pl.Expr]:
    """Return the channels under their names, null where a version of the table does not have them yet."""
    columns = {name: names.used[name] for name in channels}
    return [
        (pl.col(column) if column in schema else pl.lit(None, pl.Float64)).alias(name)
        for name, column in columns.items()
    ]


def _repeats_a_key(rows: pl.DataFrame) -> bool:
    """Whether two rows have the same key. Compares neighbours: most rows come sorted, so nothing is hashed."""
    keys = in_order(rows.select(KEY))
    return bool(keys.select(pl.all_horizontal([pl.col(key) == pl.col(key).shift() for key in KEY]).any()).item())


def _month() -> pl.Expr:
    return pl.col("time").dt.strftime("%Y-%m").alias(_MONTH)


def _within(month: pl.Expr, since: datetime | None, until: datetime | None) -> pl.Expr:
    first = month >= since.astimezone(UTC).strftime("%Y-%m") if since else pl.lit(value=True)
    return first & (month <= until.astimezone(UTC).strftime("%Y-%m") if until else pl.lit(value=True))
