"""Look after the tables of a data set: verify every file, put small files together, delete what nobody needs."""

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
from pipelines.forecasting.issue import issuing
from pipelines.ingestion.lost_version import lost_version

_LOG = logging.getLogger(__name__)
_UNISSUED_KEPT = timedelta(days=1)


def maintain(dataset: Dataset, retention: timedelta | None = None) -> Mapping[str, Maintained]:
    """Maintain every table of a data set so that ``as_of`` reaches back as far as the job file, or the caller, says.

    Raises ``lake.corrupt``, and touches nothing, if a file is not what was acknowledged.
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
    """Remove the rows of forecasts that whoever made them died before issuing, a day ago or more; returns their ids.

    Nobody reads them: a forecast is there once the ledger names it.
    """
    table = dataset.forecasts
    try:
        # Nothing is issued meanwhile. By another machine it may be: hence the day.
        with FileLock(issuing(dataset), timeout=0):
            if not table.exists:
                return frozenset()
            written = table.ids(table.version_at(now - _UNISSUED_KEPT))
            unissued = written - dataset.ledger.issuances.ids(dataset.name)
            if unissued:
                table.remove(unissued)
                _LOG.warning(
                    "%s: the rows of %d forecasts that were never issued are removed", dataset.name, len(unissued)
                )
            return unissued
    except Timeout:  # a forecast is being issued: the next maintenance comes to it
        return frozenset()
    except NotFoundError as error:
        if error.code not in {"lake.before_first", "lake.not_kept"}:
            raise
        return frozenset()  # the table is younger than a day, or what it was a day ago is not kept


def check_tables(dataset: Dataset) -> tuple[Damage, ...]:
    """Compare every file of every table of a data set with its digest; returns what is damaged or was put aside."""
    tables = dataset.tables.values()
    found = [damage for table in tables if table.exists for damage in table.check().damages]
    lost = lost_version(dataset)
    return (*found, *([] if lost is None else [lost]))
