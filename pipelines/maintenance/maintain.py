"""Maintain the tables of a data set: verify every file, merge small files, delete outdated ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from filelock import FileLock, Timeout

from forecast.clock import SystemClock
from forecast.errors import NotFoundError, StorageError
from forecast.installation import Dataset
from forecast.lake.maintenance import Damage, Maintained
from forecast.vocabulary import parse_duration
from pipelines.forecasting.issue import issue_lock
from pipelines.ingestion.lost_version import lost_version

_LOG = logging.getLogger(__name__)
_UNISSUED_KEPT = timedelta(days=1)


def maintain(dataset: Dataset, retention: timedelta | None = None) -> Mapping[str, Maintained]:
    """Maintain every table; versions younger than ``retention`` (default: the config's) stay readable by ``as_of``.

    Raises ``lake.corrupt``, and changes nothing, if a file does not match its digest.
    """
    kept = parse_duration(dataset.config.retention) if retention is None else retention
    damages = check_tables(dataset)
    corrupt = [damage.message for damage in damages if damage.code == "lake.corrupt"]
    if corrupt:
        raise StorageError("lake.corrupt", "\n  ".join(corrupt))
    for damage in damages:
        _LOG.warning("%s: %s [%s]", dataset.name, damage.message, damage.code)
    now = SystemClock().now()
    remove_unissued(dataset, now)
    tables = {what: table for what, table in dataset.tables.items() if table.exists}
    return {what: table.maintain(kept, now) for what, table in tables.items()}


def remove_unissued(dataset: Dataset, now: datetime) -> frozenset[str]:
    """Remove forecast rows that no issuance names; returns the ids of these forecasts.

    A worker that was killed between writing rows and adding the issuance leaves such rows. Readers never see them. Rows
    younger than a day stay: another machine may be about to issue them.
    """
    table = dataset.forecasts
    try:
        # The lock stops issuing on this machine only: hence the day.
        with FileLock(issue_lock(dataset), timeout=0):
            if not table.exists:
                return frozenset()
            written = table.ids(table.version_at(now - _UNISSUED_KEPT))
            unissued = written - dataset.ledger.issuances.ids(dataset.name)
            if unissued:
                table.remove(unissued)
                _LOG.warning("%s: removed the rows of %d forecasts that were never issued", dataset.name, len(unissued))
            return unissued
    except Timeout:  # a forecast is being issued: left to the next maintenance
        return frozenset()
    except NotFoundError as error:
        if error.code not in {"lake.before_first", "lake.not_kept"}:
            raise
        return frozenset()  # the table is younger than a day, or its version of a day ago is gone


def check_tables(dataset: Dataset) -> tuple[Damage, ...]:
    """Compare every file of every table with its digest; returns damaged files and a lost version."""
    tables = dataset.tables.values()
    found = [damage for table in tables if table.exists for damage in table.check().damages]
    lost = lost_version(dataset)
    return (*found, *([] if lost is None else [lost]))
