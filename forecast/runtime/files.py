"""Reading the files of a model folder, whoever wrote them: nothing that blocks, no link, nothing without an end."""

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
"""Bytes; protobuf cannot hold more, and the manifest and the golden example are a millionth of it."""
_MOST_UNPACKED = 2**28
"""Bytes of a golden example: three windows. A megabyte of zeros unpacks to a gigabyte."""


def content(path: Path, most: int = _MOST_OF_A_FILE) -> bytes:
    """Return what is in a regular file of at most so many bytes.

    A link is not followed and a pipe is not waited for. Raises ``OSError``.
    """
    with open(path, "rb", opener=_opened) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes")
        return stream.read(most)


def _opened(path: str, flags: int) -> int:
    # These are not there on Windows, where no file of a folder is a pipe.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def arrays(packed: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file by name; raises what numpy and zipfile raise, and ``ValueError``."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_UNPACKED:
        raise ValueError(f"{unpacked} bytes of arrays")
    with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
