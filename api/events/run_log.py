"""The log of a run, read in parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from forecast.errors import NotFoundError, StorageError

LONGEST = 2**20
"""Bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of a log."""

    text: bytes
    end: int
    """Place in the file behind it."""


def read_log(log: Path, after: int, longest: int) -> LogPart:
    """Read a log from a place on, or, if that is negative, so many bytes before its end; raises ``run.no_log``."""
    try:
        with log.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = min(after, size) if after >= 0 else max(size + after, 0)
            stream.seek(start)
            text = stream.read(longest)
    except FileNotFoundError as error:
        raise NotFoundError("run.no_log", "the run has written nothing on this machine", "see its host") from error
    except OSError as error:
        raise StorageError("run.log_unreadable", f'cannot read "{log}" ({error.strerror})', "check it") from error
    return LogPart(text, start + len(text))


class FollowedLog:
    """The log of a run as whole lines, while it is written."""

    def __init__(self, log: Path, place: int) -> None:
        self._log = log
        self.place = place
        """How far it was read."""

    def lines(self, longest: int, *, is_over: bool) -> list[str]:
        """Return the next whole lines; the last one even if it does not end, where nothing more will come."""
        try:
            if self._log.stat().st_size <= self.place:
                return []
            part = read_log(self._log, self.place, longest)
        except (OSError, NotFoundError):  # nothing yet, or it is on another machine
            return []
        whole = part.text.rfind(b"\n") + 1
        is_all = len(part.text) < longest
        if is_over if is_all else whole == 0:
            whole = len(part.text)
        self.place += whole
        text = part.text[:whole].decode("utf-8", errors="replace")
        return text.removesuffix("\n").split("\n") if text else []
