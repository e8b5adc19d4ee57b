"""One writer per table, by a file lock; and storage errors as errors of this service."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from deltalake.exceptions import DeltaError
from filelock import FileLock, Timeout

from forecast.errors import ConflictError, StorageError, first_line

_LOCK_SECONDS = 60


@contextmanager
def one_writer(lock: Path) -> Iterator[None]:
    """Hold a table's lock; raises ``lake.locked`` if another process holds it for 60 s.

    Raises ``lake.lock_failed`` if the lock file cannot be opened.
    """
    # Concurrent commits fail in Delta even for disjoint keys: one writer at a time.
    try:
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ConflictError(
            "lake.locked",
            f"another process has been writing to this table for {_LOCK_SECONDS} s ({lock.name})",
            "try again when it has finished",
        ) from error
    except OSError as error:
        raise StorageError(
            "lake.lock_failed", f'cannot lock "{lock}" ({error.strerror})', "check the folder and its permissions"
        ) from error


@contextmanager
def translated_storage_errors(location: str) -> Iterator[None]:
    """Translate errors of the disk, the object store, Delta and polars into a ``StorageError``."""
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
            raise StorageError(
                "lake.disk_full", f'the disk of "{location}" is full', "free some space; the table is unchanged"
            ) from error
        raise StorageError(
            "lake.failed",
            f'the table "{location}" cannot be used ({first_line(error)})',
            "check the disk",
        ) from error
