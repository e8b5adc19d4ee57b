"""The lake: what was observed, what was forecast and what was put aside, one Delta table each per data set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from forecast.clock import Clock
from forecast.errors import DataError
from forecast.lake.channel_columns import ChannelNames
from forecast.lake.conflicts import AT, KEY, TIME, VERSION, MergePlan, in_order, row_digest, settle, settle_partial
from forecast.lake.locks import told_storage_errors
from forecast.lake.maintenance import Checked, Damage, Maintained, Table
from forecast.lake.superseded import RECORDED_AT, Superseded
from forecast.lake.table import FILE, MANY_FILES, Snapshot, beside
from forecast.vocabulary import Conflicts

__all__ = [
    "FORECASTS", "KEY", "QUARANTINE", "TIME", "VERSION", "Checked", "Damage", "Forecasts", "Maintained", "MergeCount",
    "Observations", "Quarantine", "row_digest",
]  # fmt: skip

_MONTH = "month"
_ABOUT_ROW = frozenset({*KEY, _MONTH, VERSION})

FORECASTS = pl.Schema(
    {
        "forecast_id": pl.String(),
        "issued_month": pl.String(),
        "series": pl.String(),
        "channel": pl.String(),
        "lead": pl.Int32(),
        "time": TIME,
        "mean": pl.Float64(),
        "quantiles": pl.List(pl.Float64()),
    }
)
"""Issued forecasts: one row per series, channel and lead (1 is the first step); quantiles in the issuance's order."""

ISSUED = pl.Schema({**FORECASTS, "naive": pl.Float64(), "base": pl.List(pl.Float64())})
"""The same with what scoring needs: ``naive``, the seasonal naive forecast from what was known at the origin, and
``base``, the quantiles as they were before a correction; null where there was none."""

QUARANTINE = pl.Schema(
    {
        "recorded_at": TIME,
        "source": pl.String(),
        "row": pl.Int64(),
        "code": pl.String(),
        "reason": pl.String(),
        "series": pl.String(),
        "time": pl.String(),
        "content": pl.String(),
        "digest": pl.String(),
    }
)
"""Rows put aside: ``series`` and ``time`` as they came, ``content`` the whole row as JSON, ``digest`` of it and why."""


@dataclass(frozen=True, slots=True)
class MergeCount:
    """What a merge did to the table, row by row."""

    new: int
    changed: int
    """Rows that replaced a stored one: other values, or the same under a newer version."""
    unchanged: int
    outdated: int
    """Rows that lost to what is stored; they are kept in :meth:`Observations.superseded`."""
    version: int
    """Version of the table afterwards; the same as before if nothing was new or changed."""


_ENDED = timedelta(days=31)
"""A series from which nothing came for so long is waited for no more."""


class Observations(Table):
    """The observations of one data set: wide, keyed by (series, time), partitioned by month of UTC time.

    ``lake`` is a folder or the URL of an object store, ``locks`` always a folder of this machine.
    """

    def __init__(
        self, lake: Path | str, locks: Path, dataset: str, channels: Sequence[str], clock: Clock | None = None
    ) -> None:
        super().__init__(beside(lake, dataset, "observations"), locks / f"{dataset}.observations.lock", _MONTH, clock)
        self._superseded = Superseded(beside(lake, dataset, "superseded"), locks / f"{dataset}.superseded.lock", clock)
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
        """Insert new rows and replace those that lose to them, in one commit; rows already there change nothing.

        ``rows`` has the key, the channels, and ``version`` (Int64, nullable) if the source tells one: unique keys, UTC
        times, no null in the key. Whoever calls has checked that, and it is checked again here. A stored row is
        replaced by a newer version (null is older than any); of one version ``conflicts`` decides. ``partial`` rows
        tell only some channels: a null of theirs leaves the stored value. ``outdated`` are rows that have lost already,
        of any keys: they are only kept.
        """
        rows = self._sound(rows)
        lost = rows.clear() if outdated is None else self._sound(outdated, unique=False)
        with self._writing() as at:
            names = self._names(at)
            names.require(self._channels, self._folder.location, self._dataset)
            if at is None:
                self._superseded.append(self._stored(lost, names))
                version = self._append(None, self._stored(rows, names))
                return MergeCount(len(rows), 0, 0, 0, version)
            months = rows.select(_month()).to_series().unique().to_list()
            known = self._rows(at, at.files.filter(pl.col("part").is_in(months))).collect().with_row_index(AT)
            # Of a month that is long past its beginning few rows are compared.
            near = known.filter(pl.col("time").is_between(rows["time"].min(), rows["time"].max()))
            message = near.select(*KEY, _version(known.schema), *_by_name(names, self._channels, known.schema), AT)
            settled = (settle_partial if partial else settle)(rows, message, self._channels, conflicts)
            # Before the commit: once that is acknowledged, nobody would send the outdated rows again.
            self._superseded.append(self._stored(pl.concat([lost, settled.outdated]), names))
            version = at.version
            if len(settled.new) or len(settled.changed):
                version = self._replace(at, known, settled, names)
            return MergeCount(len(settled.new), len(settled.changed), settled.unchanged, len(settled.outdated), version)

    def read(
        self,
        *,
        version: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        channels: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return rows with ``since <= time < until``, sorted by key, as of the latest or the given version.

        Columns: ``series``, ``time``, and the channels, which go by their present names in every version. Only files of
        the months that are asked for are read.
        """
        channels = self._channels if channels is None else tuple(channels)
        with told_storage_errors(self._folder.location):
            latest = self._kept(None)
            at = self._open(self._kept(version))
            names = self._names(at if at.version == latest else self._open(latest))
            names.require(channels, self._folder.location, self._dataset)
            files = at.files.filter(_within(pl.col("part"), since, until)).sort("part")
            rows = self._rows(at, files).select(*KEY, *_by_name(names, channels, at.schema)).collect()
        # Only rows of the first and the last month can lie outside: taking them out of a frame is cheaper than reading
        # each column by a mask.
        if since is not None:
            rows = rows.filter(pl.col("time") >= since)
        if until is not None:
            rows = rows.filter(pl.col("time") < until)
        return in_order(rows)

    def watermark(self, channels: Sequence[str]) -> datetime | None:
        """Return the newest time up to which each series has been observed in each of the channels.

        A series or channel without a value in the newest 31 days is taken to have ended and holds nothing up; ``None``
        where nothing was observed.
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
        """Raise ``lake.channels_changed`` if the table's channels are not those that it was opened with."""
        with told_storage_errors(self._folder.location):
            names = self._names(self._open(self._kept(None)))
        names.require(self._channels, self._folder.location, self._dataset)

    def superseded(self) -> pl.DataFrame:
        """Return the rows that lost to a stored one when they came: key, version, channels, ``recorded_at``."""
        with told_storage_errors(self._folder.location):
            names = self._names(self._open(self._kept(None)))
        kept = self._superseded.read()
        return kept.select(*KEY, _version(kept.schema), *_by_name(names, self._channels, kept.schema), RECORDED_AT)

    def add_channel(self, name: str) -> None:
        """Add a channel, empty so far; a retired one comes back with its values."""
        with self._changing() as at:
            names = self._names(at).with_added(name, at.schema)
            self._call(self._extend(at, pl.Schema({names.used[name]: pl.Float64()})), names)

    def rename_channel(self, old: str, new: str) -> None:
        """Give a channel another name, under which every version is read from now on; no value is written again."""
        with self._changing() as at:
            self._call(at, self._names(at).with_renamed(old, new))

    def retire_channel(self, name: str) -> None:
        """Take a channel out of use: it is neither read nor written until it is added again; its values stay."""
        with self._changing() as at:
            self._call(at, self._names(at).with_retired(name))

    def maintain(self, retention: timedelta, now: datetime) -> Maintained:
        """Maintain the table, and put small files of its superseded rows together; those are kept for ever."""
        done = super().maintain(retention, now)
        self._superseded.maintain(retention, now)
        return done

    def check(self) -> Checked:
        """Check the table and its superseded rows."""
        return super().check() + self._superseded.check()

    @contextmanager
    def _changing(self) -> Iterator[Snapshot]:
        with self._writing() as at:
            yield at or self._open(self._kept(None))  # which tells that nothing was ever written

    def _arranged(self, rows: pl.DataFrame) -> pl.DataFrame:
        return in_order(rows)

    def _names(self, at: Snapshot | None) -> ChannelNames:
        if at is None:
            return ChannelNames.of({}, self._channels)
        return ChannelNames.of(
            at.table.metadata().configuration, (each for each in at.schema if each not in _ABOUT_ROW)
        )

    def _call(self, at: Snapshot, names: ChannelNames) -> None:
        if names != self._names(at):
            self._alter(
                at,
                lambda table, commit, hooks: table.alter.set_table_properties(
                    names.property(),
                    raise_if_not_exists=False,
                    commit_properties=commit,
                    post_commithook_properties=hooks,
                ),
            )

    def _stored(self, rows: pl.DataFrame, names: ChannelNames) -> pl.DataFrame:
        """Return rows as they are stored: channels in their columns, ``version`` if any has one, and the month."""
        has_version = rows[VERSION].is_not_null().any()
        columns = [pl.col(name).alias(names.used[name]) for name in self._channels]
        return rows.select(*KEY, *([VERSION] if has_version else []), *columns, _month())

    def _replace(self, at: Snapshot, known: pl.DataFrame, settled: MergePlan, names: ChannelNames) -> int:
        """Write each month's new and changed rows, with all other rows of the files that held the changed ones."""
        changed = self._stored(settled.changed, names)
        ours = [names.used[name] for name in self._channels]
        others = [name for name in at.schema if name not in {*ours, *_ABOUT_ROW}]
        before = known[settled.changed[AT]]
        if others:  # channels that the job file does not name keep their values
            changed = changed.hstack(before.select(others))
        fresh = pl.concat([changed, self._stored(settled.new, names)], how="diagonal")
        at = self._extend(at, pl.Schema({name: dtype for name, dtype in fresh.schema.items() if name != _MONTH}))
        months = fresh.partition_by(_MONTH, as_dict=True, include_key=False).items()
        frames = {str(key[0]): part for key, part in months}
        place = pl.concat_str(pl.lit(self._folder.place("")), "name").alias(FILE)
        held = at.files.filter(place.is_in(before[FILE].unique().to_list()))
        replaced = pl.concat([held, at.small(frames, MANY_FILES)]).unique("name")
        is_kept = pl.repeat(value=True, n=len(known), eager=True).scatter(settled.changed[AT], values=False)
        kept = known.filter(is_kept).drop(AT)
        for part in replaced["part"].unique():
            files = replaced.filter(pl.col("part") == part).select(place).to_series().to_list()
            rest = kept.filter(pl.col(FILE).is_in(files)).drop(FILE)
            frames[part] = pl.concat([rest, frames[part]], how="diagonal")
        return self._commit(at, frames.items(), replaced)

    def _sound(self, rows: pl.DataFrame, *, unique: bool = True) -> pl.DataFrame:
        """Return rows as the merge needs them, or say what is wrong with them."""
        schema = {"series": pl.String(), "time": TIME} | {name: pl.Float64() for name in self._channels}
        wrong = {
            name: dtype for name, dtype in rows.schema.items() if ({VERSION: pl.Int64()} | schema).get(name) != dtype
        }
        missing = [name for name in schema if name not in rows.columns]
        if wrong or missing:
            raise DataError("lake.schema", f"columns do not fit the table: wrong {wrong}, missing {missing}")
        if rows.select(pl.any_horizontal(pl.col(KEY).is_null().any())).item():
            raise DataError("lake.null_key", "a row has no series or no time")
        if unique and _repeats_a_key(rows):
            raise DataError("lake.duplicate_key", "two rows have the same series and time")
        return rows.select(*KEY, _version(rows.schema), *self._channels)


class Forecasts(Table):
    """The issued forecasts of one data set; every one is kept."""

    def __init__(self, lake: Path | str, locks: Path, dataset: str, clock: Clock | None = None) -> None:
        super().__init__(beside(lake, dataset, "forecasts"), locks / f"{dataset}.forecasts.lock", "issued_month", clock)

    def append(self, rows: pl.DataFrame) -> None:
        """Write the rows of forecasts; they are seen only once the ledger names their ids."""
        with self._writing() as at:
            latest = None if at is None else self._extend(at, ISSUED)
            rows = rows.match_to_schema(ISSUED, missing_columns={"naive": "insert", "base": "insert"})
            self._append(latest, rows.select(list(ISSUED)))

    def read(self, forecast_id: str, issued_at: datetime) -> pl.DataFrame:
        """Return the rows of one forecast, sorted by series, channel, lead."""
        month = issued_at.strftime("%Y-%m")
        with told_storage_errors(self._folder.location):
            at = self._open(self._kept(None))
            return (
                self._rows(at, at.files.filter(pl.col("part") == month))
                .filter(pl.col("forecast_id") == forecast_id)
                .with_columns(pl.lit(month).alias(self._partition))
                .select(list(FORECASTS))
                .sort("series", "channel", "lead")
                .collect()
            )

    def ids(self, version: int) -> frozenset[str]:
        """Return the ids of all forecasts whose rows are in a version of the table."""
        with told_storage_errors(self._folder.location):
            at = self._open(self._kept(version))
            return frozenset(self._rows(at, at.files).select(pl.col("forecast_id").unique()).collect().to_series())

    def remove(self, forecast_ids: Collection[str]) -> None:
        """Remove the rows of some forecasts; files that hold none of theirs stay as they are."""
        theirs = pl.col("forecast_id").is_in(list(forecast_ids))
        with self._writing() as at:
            if at is None:
                return
            place = pl.concat_str(pl.lit(self._folder.place("")), "name").alias(FILE)
            named = self._rows(at, at.files).filter(theirs).select(pl.col(FILE).unique()).collect().to_series()
            held = at.files.filter(place.is_in(named.to_list()))
            if held.is_empty():
                return
            by_month = held.partition_by("part", as_dict=True).items()
            rest = (
                (str(key[0]), self._rows(at, files).filter(~theirs).drop(FILE).collect()) for key, files in by_month
            )
            self._commit(at, ((month, rows) for month, rows in rest if len(rows)), held)

    def read_many(self, forecast_ids: Mapping[str, datetime]) -> pl.DataFrame:
        """Return the rows of forecasts, by whose identifiers stands when they were issued, in no order.

        The columns are those of :data:`ISSUED` but the month.
        """
        months = sorted({issued_at.astimezone(UTC).strftime("%Y-%m") for issued_at in forecast_ids.values()})
        columns = [pl.col(name) for name in ISSUED if name != self._partition]
        with told_storage_errors(self._folder.location):
            at = self._open(self._kept(None))
            absent = [pl.lit(None, ISSUED[name]).alias(name) for name in ("naive", "base") if name not in at.schema]
            rows = self._rows(at, at.files.filter(pl.col("part").is_in(months)))
            kept = rows.filter(pl.col("forecast_id").is_in(list(forecast_ids)))
            return kept.with_columns(absent).select(columns).collect()

    def at_lead(self, lead: int, issued: Mapping[str, datetime]) -> pl.DataFrame:
        """Return the rows of one lead of several forecasts, told by id and when they were issued."""
        if not self.exists or not issued:
            return pl.DataFrame(schema=FORECASTS)
        months = {time.strftime("%Y-%m") for time in issued.values()}
        with told_storage_errors(self._folder.location):
            at = self._open(self._kept(None))
            rows = self._rows(at, at.files.filter(pl.col("part").is_in(sorted(months))))
            chosen = rows.filter(pl.col("lead") == lead, pl.col("forecast_id").is_in(list(issued)))
            return (
                chosen.with_columns(pl.lit(None, pl.String).alias(self._partition))
                .select(list(FORECASTS))
                .sort("series", "channel", "time")
                .collect()
            )


class Quarantine(Table):
    """The rows of one data set that were put aside, each once, with the reason; by month of their recording."""

    def __init__(self, lake: Path | str, locks: Path, dataset: str, clock: Clock | None = None) -> None:
        super().__init__(beside(lake, dataset, "quarantine"), locks / f"{dataset}.quarantine.lock", _MONTH, clock)

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
        with told_storage_errors(self._folder.location):
            at = self._open(self._kept(None))
            rows = self._rows(at, at.files).select(list(QUARANTINE))
            newest = rows.sort("recorded_at", "source", "row", descending=[True, False, False])
            return (newest if limit is None else newest.head(limit)).collect()


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
    """Whether two rows have one key; of sorted rows, which most are, neighbours tell, and nothing is hashed."""
    keys = in_order(rows.select(KEY))
    return bool(keys.select(pl.all_horizontal([pl.col(key) == pl.col(key).shift() for key in KEY]).any()).item())


def _month() -> pl.Expr:
    return pl.col("time").dt.strftime("%Y-%m").alias(_MONTH)


def _within(month: pl.Expr, since: datetime | None, until: datetime | None) -> pl.Expr:
    first = month >= since.astimezone(UTC).strftime("%Y-%m") if since else pl.lit(value=True)
    return first & (month <= until.astimezone(UTC).strftime("%Y-%m") if until else pl.lit(value=True))
