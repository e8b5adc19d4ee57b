"""Ingest rows: read a source, check every row, merge the valid ones into the lake, and return a receipt."""

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
from pipelines.ingestion.checked_batch import FROM, QUARANTINED, ROW, CheckedBatch
from pipelines.ingestion.duplicates import resolve_duplicates
from pipelines.ingestion.lost_version import lost_version
from pipelines.ingestion.replay import released, until_now
from pipelines.ingestion.row_checks import check_rows
from pipelines.ingestion.series_checks import check_series
from pipelines.preparation.clean import missing_counts
from pipelines.sources import Batch, Unreadable, read


@dataclass(frozen=True, slots=True)
class _Checked:
    """Result of the checks over all batches."""

    rows: pl.DataFrame
    outdated: pl.DataFrame
    """Rows that lost to another row with the same key."""
    quarantined: pl.DataFrame
    findings: tuple[IngestFinding, ...]
    sources: tuple[str, ...]
    digest: str
    cursor: str | None
    over_at: datetime | None
    """Replay: the time at which its last row was released; ``None`` while rows are left."""
    is_whole: bool
    """Whether the rows are all rows of the source."""


@dataclass(slots=True)
class _ReadBatches:
    """The batches of a source as they are read, each checked by itself."""

    batches: list[CheckedBatch] = field(default_factory=list)
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
    """Check rows and merge the new ones into the lake. Idempotent.

    Reads the configured source if ``batches`` is ``None``. Without ``echo`` neither errors nor the receipt repeat
    values of the rows.

    Raises ``source.*`` if the source cannot be read, ``ingest.*`` if a check rejects it (nothing is written then), and
    ``lake.corrupt`` if the table has lost acknowledged versions.
    """
    config = dataset.config
    lost = lost_version(dataset)
    if lost is not None:  # another write would make the loss of acknowledged rows permanent
        raise StorageError(lost.code, lost.message)
    checked = _checked(dataset, batches, echo=echo)
    quarantined = dataset.quarantine.append(checked.quarantined) if len(checked.quarantined) else 0
    table = dataset.observations
    if checked.rows.is_empty():
        receipt = _receipt(dataset.name, checked, MergeCount(0, 0, 0, 0, table.version), quarantined, ())
    else:
        count = table.merge(
            checked.rows,
            conflicts=config.source.conflict_rule,
            partial=config.source.is_partial,
            outdated=checked.outdated,
        )
        gaps = _gaps(checked.rows if checked.is_whole else _around(table, checked.rows, config), config)
        receipt = _receipt(dataset.name, checked, count, quarantined, gaps)
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
    """Check rows as :func:`ingest` does, without writing; the receipt shows what would be quarantined or repaired."""
    checked = _checked(dataset, batches, echo=echo)
    table = dataset.observations
    if table.exists:
        table.require_channels()
    gaps = _gaps(checked.rows, dataset.config)
    return _receipt(dataset.name, checked, None, len(checked.quarantined), gaps)


def read_source(dataset: Dataset, path: Path | None = None) -> Iterable[Batch | Unreadable]:
    """Read the source of a data set, or the file or folder ``path`` as if it were the source."""
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
    received = _check_batches(dataset, batches, echo=echo)
    whole = _combined(dataset.name, received.batches, config, echo=echo)
    outdated = resolve_duplicates(whole, config.source)
    is_whole = batches is None and config.source.reads_all
    check_series(whole, config, is_whole=is_whole)
    if is_whole:
        _compare_with_before(whole, dataset)
    if received.unreadable:
        first = tuple(f"{item.name}: {item.error}" for item in received.unreadable[:3])
        whole.report("unreadable_file", len(received.unreadable), first)
    findings = _merged([*(finding for batch in received.batches for finding in batch.findings), *whole.findings])
    parts = [batch.quarantined.with_columns(source=pl.lit(batch.name)) for batch in (*received.batches, whole)]
    parts += [_quarantined_file(item) for item in received.unreadable]
    # An incremental source may have no new rows, or only rows that were quarantined: that is no error.
    is_due = is_whole or batches is not None or not dataset.observations.exists
    if whole.rows.is_empty() and is_due:
        raise _no_rows(dataset.name, config, findings)
    return _Checked(
        rows=whole.rows.drop(ROW, FROM, strict=False),
        outdated=outdated.drop(ROW, FROM, strict=False),
        quarantined=pl.concat(parts),
        findings=findings,
        sources=tuple(batch.name for batch in received.batches),
        digest=hashlib.sha256("".join(received.digests).encode()).hexdigest(),
        cursor=received.cursor,
        over_at=received.over_at,
        is_whole=is_whole,
    )


def _quarantined_file(item: Unreadable) -> pl.DataFrame:
    """Return an unreadable file as a row of the quarantine: row number 0, with the reason."""
    record = {"code": "ingest.unreadable_file", "reason": str(item.error), "content": item.name, "source": item.name}
    return pl.DataFrame([record | {ROW: 0, "series": None, "time": None}], schema=QUARANTINED | {"source": pl.String()})


def _check_batches(dataset: Dataset, batches: Iterable[Batch | Unreadable] | None, *, echo: bool) -> _ReadBatches:
    """Read and check each batch by itself."""
    config = dataset.config
    clock, start = dataset.clock, replay_start(config)
    received = _ReadBatches()
    for batch in read_source(dataset) if batches is None else batches:
        if isinstance(batch, Unreadable):
            if action("unreadable_file", config.checks) is Action.REJECT:
                raise batch.error
            received.unreadable.append(batch)
            continue
        received.digests.append(batch.digest)
        received.cursor = batch.cursor
        now = clock.now()
        if start is None or batches is not None:
            received.batches.append(check_rows(batch, config, now, echo=echo))
            continue
        happened, is_over = until_now(batch, config, now)
        received.batches.append(check_rows(happened, config, now))
        received.batches[-1].rows = released(received.batches[-1].rows, config, start, now)
        received.over_at = now if is_over else None
    return received


def _combined(name: str, batches: list[CheckedBatch], config: DatasetConfig, *, echo: bool) -> CheckedBatch:
    """Combine the rows of all batches into one batch, for the checks across batches."""
    keys = {"row": pl.Int64(), "series": pl.String(), "time": TIME}
    nothing = pl.DataFrame(schema=pl.Schema(keys | {channel: pl.Float64() for channel in config.channels}))
    parts = [batch.rows for batch in batches]
    if len(batches) > 1:
        parts = [batch.rows.with_columns(pl.lit(batch.name).alias(FROM)) for batch in batches]
    rows = pl.concat(parts, how="diagonal") if parts else nothing
    for batch in batches:
        batch.rows = batch.rows.clear()  # keep only one copy in memory
    one = batches[0].name if len(batches) == 1 else name
    return CheckedBatch(Batch(name=one, rows=rows, digest="", cursor=None), config.checks, echo=echo)


def _compare_with_before(batch: CheckedBatch, dataset: Dataset) -> None:
    before = next(
        (item for item in dataset.ledger.receipts.latest(dataset.name) if item.sources == (batch.name,)), None
    )
    gone = sorted(set(before.series) - set(batch.rows["series"].unique())) if before else []
    if gone:
        batch.report("series_missing", len(gone), tuple(gone[:3]))


def _merged(findings: Iterable[IngestFinding]) -> tuple[IngestFinding, ...]:
    """Merge the findings with the same code of several batches."""
    merged: dict[str, IngestFinding] = {}
    for finding in findings:
        before = merged.get(finding.code)
        if before is not None:
            finding = finding.model_copy(  # noqa: PLW2901
                update={"count": before.count + finding.count, "first": (before.first + finding.first)[:3]}
            )
        merged[finding.code] = finding
    return tuple(merged.values())


def _no_rows(name: str, config: DatasetConfig, findings: tuple[IngestFinding, ...]) -> ForecastError:
    quarantined = [finding for finding in findings if finding.action is Action.QUARANTINE]
    if isinstance(config.source, PushSource) and not quarantined:
        address = f"POST /v1/datasets/{name}/observations"
        return DataError("ingest.empty", f"{name} has no rows yet", f"push rows: {address}")
    if not quarantined:
        return DataError(
            "ingest.empty", f'the source of "{name}" has no usable row yet', "check the source and its zone"
        )
    worst = max(quarantined, key=lambda finding: finding.count)
    if worst.code == "ingest.unreadable_file":
        return StorageError(worst.code, f"no file can be read: {worst.first[0]}", "correct the files")
    return DataError(
        worst.code,
        f"no row is left: {worst.message}: {worst.count}, such as {worst.first[0]}",
        "correct the source or the config file",
    )


def _around(table: Observations, rows: pl.DataFrame, config: DatasetConfig) -> pl.DataFrame:
    """Return the stored rows from one look-back before the first to the last of ``rows``."""
    first, last = rows["time"].min(), rows["time"].max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):  # pragma: no cover - there is a row
        return rows
    return table.read(since=first - config.lookback * config.step, until=last + config.step)


def _gaps(rows: pl.DataFrame, config: DatasetConfig) -> tuple[IngestFinding, ...]:
    """Report the values missing on the regular grid: how many are filled when history is read, and how many stay."""
    try:
        filled, left = missing_counts(rows, config)
    except DataError as error:
        return (IngestFinding(code=error.code, action=Action.WARN, count=1, message=str(error)),)
    found = (
        (filled, "filled", Action.REPAIR, "are filled when history is read, as the config file says"),
        (left, "gaps", Action.WARN, "stay missing (longer than fill_limit, or before the first)"),
    )
    return tuple(
        IngestFinding(
            code=f"ingest.{name}",
            action=done,
            count=sum(counts.values()),
            message=f"missing values between the first and last row received {message}",
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
