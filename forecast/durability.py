"""Durable writes: files, and the folders that list them, survive a power cut only if they were fsynced."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Fsync a file's content or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
