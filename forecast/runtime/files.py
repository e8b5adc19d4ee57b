"""Read model files defensively: regular files only (no links, pipes or devices), and only up to a size limit."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_OF_A_FILE = 2**31
"""Bytes: the limit of protobuf. The manifest and the golden example are a millionth of it."""
_MOST_UNPACKED = 2**28
"""Bytes of a golden example, which has three windows. A megabyte of packed zeros unpacks to a gigabyte."""


def content(path: Path, most: int = _MOST_OF_A_FILE) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Does not follow a link or wait for a pipe. Raises ``OSError``.
    """
    with open(path, "rb", opener=_opened) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes")
        return stream.read(most)


def _opened(path: str, flags: int) -> int:
    # Windows lacks these flags; there no file in a folder is a pipe.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def arrays(packed: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file by name; raises errors of numpy and zipfile, and ``ValueError`` if too large."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_UNPACKED:
        raise ValueError(f"{unpacked} bytes of arrays")
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
