"""Bring rows in: read a source, check every row, merge what is left into the lake, and answer with a receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl

from forecast.clock import SystemClock
from forecast.config.checks import action
from forecast.config.dataset import DatasetConfig
from forecast.config.sources import PushSource
from forecast.errors import DataError, ForecastError, StorageError
from forecast.installation import Dataset, replay_start
from forecast.lake.observations import MergeCount, Observations
from forecast.lake.schemas import TIME
from forecast.ledger.receipts import IngestFinding, Receipt
from forecast.vocabulary import Action
from pipelines.ingestion.checked_batch import ASIDE, FROM, ROW, CheckedBatch
from pipelines.ingestion.duplicates import resolve_duplicates
from pipelines.ingestion.replay import released, until_now
from pipelines.ingestion.row_checks import check_rows
from pipelines.ingestion.series_checks import check_series
from pipelines.maintenance.maintain import lost_version
from pipelines.preparation.clean import missing_counts
from pipelines.sources import Batch, Unreadable, read


@dataclass(frozen=True, slots=True)
class _Checked:
    """What came through the checks, and what did not."""

    rows: pl.DataFrame
    outdated: pl.DataFrame
    """Rows that lost to another one of the same key."""
    quarantined: pl.DataFrame
    findings: tuple[IngestFinding, ...]
    sources: tuple[str, ...]
    digest: str
    cursor: str | None
    over_at: datetime | None
    """replay: when its last row had come, if it has."""
    is_whole: bool
    """Whether the rows are all that the source has."""


@dataclass(slots=True)
class _Came:
    """Batches that were checked one by one."""

    sieves: list[CheckedBatch] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    cursor: str | None = None
    over_at: datetime | None = None


def ingest(
    dataset: Dataset,
    batches: Iterable[Batch | Unreadable] | None = None,
    *,
    echo: bool = True,
) -> Receipt:
    """Check rows and merge what is new; doing it twice changes nothing the second time.

    Reads the source of the job file if no batches are given. Raises ``source.*`` if a source cannot be read and
    ``ingest.*`` if a check refuses it; nothing is written then. Without ``echo`` neither errors nor the receipt repeat
    what stands in the rows.
    """
    config = dataset.config
    lost = lost_version(dataset)
    if lost is not None:  # rows that were acknowledged would be gone for good once others are written
        raise StorageError(lost.code, lost.message)
    checked = _checked(dataset, batches, echo=echo)
    put_aside = dataset.quarantine.append(checked.quarantined) if len(checked.quarantined) else 0
    table = dataset.observations
    if checked.rows.is_empty():
        receipt = _receipt(dataset.name, checked, MergeCount(0, 0, 0, 0, table.version), put_aside, ())
    else:
        count = table.merge(
            checked.rows,
            conflicts=config.source.conflict_rule,
            partial=config.source.is_partial,
            outdated=checked.outdated,
        )
        gaps = _gaps(checked.rows if checked.is_whole else _around(table, checked.rows, config), config)
        receipt = _receipt(dataset.name, checked, count, put_aside, gaps)
    dataset.ledger.receipts.add(receipt)
    if checked.over_at is not None:
        dataset.ledger.clocks.stop(dataset.name, checked.over_at)
    return receipt


def validate(
    dataset: Dataset,
    batches: Iterable[Batch | Unreadable] | None = None,
    *,
    echo: bool = True,
) -> Receipt:
    """Do all that :func:`ingest` does except write: the receipt says what would be put aside, refused or mended."""
    checked = _checked(dataset, batches, echo=echo)
    table = dataset.observations
    if table.exists:
        table.require_channels()
    gaps = _gaps(checked.rows, dataset.config)
    return _receipt(dataset.name, checked, None, len(checked.quarantined), gaps)


def read_source(dataset: Dataset, path: Path | None = None) -> Iterable[Batch | Unreadable]:
    """Read the source of a data set, or another file of its kind in its place."""
    config = dataset.config
    if path is not None:
        place = f"{path.absolute()}{'/' if path.is_dir() else ''}"
        config = config.model_copy(update={"source": config.source.model_copy(update={"path": place})})
    cursor = next(
        (item.cursor for item in dataset.ledger.receipts.latest(dataset.name) if item.cursor is not None), None
    )
    return read(dataset.name, config, dataset.home.path, cursor)


def _checked(dataset: Dataset, batches: Iterable[Batch | Unreadable] | None, *, echo: bool) -> _Checked:
    config = dataset.config
    came = _sieved(dataset, batches, echo=echo)
    whole = _together(dataset.name, came.sieves, config, echo=echo)
    outdated = resolve_duplicates(whole, config.source)
    is_whole = batches is None and config.source.reads_all
    check_series(whole, config, is_whole=is_whole)
    if is_whole:
        _compare_with_before(whole, dataset)
    if came.unreadable:
        first = tuple(f"{item.name}: {item.error}" for item in came.unreadable[:3])
        whole.tell("unreadable_file", len(came.unreadable), first)
    findings = _united([*(finding for sieve in came.sieves for finding in sieve.findings), *whole.findings])
    parts = [sieve.quarantined.with_columns(source=pl.lit(sieve.name)) for sieve in (*came.sieves, whole)]
    parts += [_put_aside(item) for item in came.unreadable]
    # That nothing has come since the last time is no error, nor that all of it had to be put aside.
    is_due = is_whole or batches is not None or not dataset.observations.exists
    if whole.rows.is_empty() and is_due:
        raise _nothing(dataset.name, config, findings)
    return _Checked(
        rows=whole.rows.drop(ROW, FROM, strict=False),
        outdated=outdated.drop(ROW, FROM, strict=False),
        quarantined=pl.concat(parts),
        findings=findings,
        sources=tuple(sieve.name for sieve in came.sieves),
        digest=hashlib.sha256("".join(came.digests).encode()).hexdigest(),
        cursor=came.cursor,
        over_at=came.over_at,
        is_whole=is_whole,
    )


def _put_aside(item: Unreadable) -> pl.DataFrame:
    """Return a file that cannot be read as a row of the quarantine: number 0, with the reason."""
    message = {"code": "ingest.unreadable_file", "reason": str(item.error), "content": item.name, "source": item.name}
    return pl.DataFrame([message | {ROW: 0, "series": None, "time": None}], schema=ASIDE | {"source": pl.String()})


def _sieved(dataset: Dataset, batches: Iterable[Batch | Unreadable] | None, *, echo: bool) -> _Came:
    """Check each batch by itself."""
    config = dataset.config
    clock, start = dataset.clock, replay_start(config)
    came = _Came()
    for batch in read_source(dataset) if batches is None else batches:
        if isinstance(batch, Unreadable):
            if action("unreadable_file", config.checks) is Action.REJECT:
                raise batch.error
            came.unreadable.append(batch)
            continue
        came.digests.append(batch.digest)
        came.cursor = batch.cursor
        now = clock.now()
        if start is None or batches is not None:
            came.sieves.append(check_rows(batch, config, now, echo=echo))
            continue
        happened, is_over = until_now(batch, config, now)
        came.sieves.append(check_rows(happened, config, now))
        came.sieves[-1].rows = released(came.sieves[-1].rows, config, start, now)
        came.over_at = now if is_over else None
    return came


def _together(name: str, sieves: list[CheckedBatch], config: DatasetConfig, *, echo: bool) -> CheckedBatch:
    """Return a sieve over the rows of all batches, for what can only be seen across them."""
    keys = {"row": pl.Int64(), "series": pl.String(), "time": TIME}
    nothing = pl.DataFrame(schema=pl.Schema(keys | {channel: pl.Float64() for channel in config.channels}))
    parts = [sieve.rows for sieve in sieves]
    if len(sieves) > 1:
        parts = [sieve.rows.with_columns(pl.lit(sieve.name).alias(FROM)) for sieve in sieves]
    rows = pl.concat(parts, how="diagonal") if parts else nothing
    for sieve in sieves:
        sieve.rows = sieve.rows.clear()  # one copy of them is enough
    one = sieves[0].name if len(sieves) == 1 else name
    return CheckedBatch(Batch(name=one, rows=rows, digest="", cursor=None), config.checks, echo=echo)


def _compare_with_before(sieve: CheckedBatch, dataset: Dataset) -> None:
    before = next(
        (item for item in dataset.ledger.receipts.latest(dataset.name) if item.sources == (sieve.name,)), None
    )
    gone = sorted(set(before.series) - set(sieve.rows["series"].unique())) if before else []
    if gone:
        sieve.tell("series_missing", len(gone), tuple(gone[:3]))


def _united(findings: Iterable[IngestFinding]) -> tuple[IngestFinding, ...]:
    """Put the findings of one kind in several batches together."""
    united: dict[str, IngestFinding] = {}
    for finding in findings:
        before = united.get(finding.code)
        if before is not None:
            finding = finding.model_copy(  # noqa: PLW2901
                update={"count": before.count + finding.count, "first": (before.first + finding.first)[:3]}
            )
        united[finding.code] = finding
    return tuple(united.values())


def _nothing(name: str, config: DatasetConfig, findings: tuple[IngestFinding, ...]) -> ForecastError:
    aside = [finding for finding in findings if finding.action is Action.QUARANTINE]
    if isinstance(config.source, PushSource) and not aside:
        address = f"POST /v1/datasets/{name}/observations"
        return DataError("ingest.empty", f"{name} has no rows yet", f"push some: {address}")
    if not aside:
        return DataError(
            "ingest.empty", f'the source of "{name}" has no usable row yet', "check the source and its zone"
        )
    worst = max(aside, key=lambda finding: finding.count)
    if worst.code == "ingest.unreadable_file":
        return StorageError(worst.code, f"no file can be read: {worst.first[0]}", "mend the files")
    return DataError(
        worst.code,
        f"no row is left: {worst.message}: {worst.count}, such as {worst.first[0]}",
        "mend the source or the job file",
    )


def _around(table: Observations, rows: pl.DataFrame, config: DatasetConfig) -> pl.DataFrame:
    """Return the stored rows from one look-back before the rows that came to their end."""
    first, last = rows["time"].min(), rows["time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):  # pragma: no cover - there is a row
        return rows
    return table.read(since=first - config.lookback * config.step, until=last + config.step)


def _gaps(rows: pl.DataFrame, config: DatasetConfig) -> tuple[IngestFinding, ...]:
    """Say what is missing on the regular grid, and how much of that is filled when history is read."""
    try:
        filled, left = missing_counts(rows, config)
    except DataError as error:
        return (IngestFinding(code=error.code, action=Action.WARN, count=1, message=str(error)),)
    found = (
        (filled, "filled", Action.REPAIR, "are filled when history is read, as the job file says"),
        (left, "gaps", Action.WARN, "stay missing (longer than fill_limit, or before the first)"),
    )
    return tuple(
        IngestFinding(
            code=f"ingest.{name}",
            action=done,
            count=sum(counts.values()),
            message=f"missing values in the stretch that came {message}",
            first=tuple(f"{channel} {count}" for channel, count in counts.items() if count),
        )
        for counts, name, done, message in found
        if any(counts.values())
    )


def _receipt(
    name: str, checked: _Checked, count: MergeCount | None, quarantined: int, gaps: tuple[IngestFinding, ...]
) -> Receipt:
    rows = checked.rows
    return Receipt(
        dataset=name,
        sources=checked.sources,
        digest=checked.digest,
        rows=len(rows),
        new=count.new if count else 0,
        changed=count.changed if count else 0,
        unchanged=count.unchanged if count else 0,
        outdated=count.outdated if count else 0,
        quarantined=quarantined,
        data_version=count.version if count else None,
        series=tuple(rows["series"].unique().sort()),
        first=rows["time"].min(),
        last=rows["time"].max(),
        recorded_at=SystemClock().now(),
        cursor=checked.cursor,
        findings=checked.findings + gaps,
    )
