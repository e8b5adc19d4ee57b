"""Writers of a table take turns, and what its storage says is told as errors of this service."""

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
    """Hold a table's lock; raises ``lake.locked`` if another process does for too long."""
    # Concurrent commits fail in Delta even for disjoint keys, so writers of one table take turns.
    try:
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise ConflictError(
            "lake.locked",
            f"another process has been writing to this table for {_LOCK_SECONDS} s ({lock.name})",
            "try again when it is done",
        ) from error
    except OSError as error:
        raise StorageError(
            "lake.lock_failed", f'cannot lock "{lock}" ({error.strerror})', "check the folder and its permissions"
        ) from error


@contextmanager
def translated_storage_errors(location: str) -> Iterator[None]:
    """Turn what the disk, the object store, Delta and polars raise into a ``StorageError``."""
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
            raise StorageError(
                "lake.disk_full", f'there is no space left to write "{location}"', "free some; nothing is half written"
            ) from error
        raise StorageError(
            "lake.failed", f'the table "{location}" cannot be used ({first_line(error)})', "check disk and permissions"
        ) from error
