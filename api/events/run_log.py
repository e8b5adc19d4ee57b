"""Read the log of a run in parts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from forecast.errors import NotFoundError, StorageError

LONGEST = 2**20
"""Limit of one part, in bytes."""


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of a log."""

    text: bytes
    end: int
    """Position in the file after this part."""


def read_log(log: Path, after: int, longest: int) -> LogPart:
    """Read a part of a log. A negative ``after`` counts from the end; raises ``run.no_log``."""
    try:
        with log.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = min(after, size) if after >= 0 else max(size + after, 0)
            stream.seek(start)
            text = stream.read(longest)
    except FileNotFoundError as error:
        raise NotFoundError(
            "run.no_log", "the run has no log on this machine", "see the log on the run's host"
        ) from error
    except OSError as error:
        raise StorageError(
            "run.log_unreadable", f'cannot read "{log}" ({error.strerror})', "check the file's permissions"
        ) from error
    return LogPart(text, start + len(text))


class FollowedLog:
    """Reads whole lines of a run's log while it is written."""

    def __init__(self, log: Path, place: int) -> None:
        self._log = log
        self.place = place
        """Position in the file after the last line that was returned."""

    def lines(self, longest: int, *, is_over: bool) -> list[str]:
        """Return the next whole lines; if the run is over, also an incomplete last line."""
        try:
            if self._log.stat().st_size <= self.place:
                return []
            part = read_log(self._log, self.place, longest)
        except (OSError, NotFoundError):  # nothing was written yet, or the log is on another machine
            return []
        whole = part.text.rfind(b"\n") + 1
        is_all = len(part.text) < longest
        if is_over if is_all else whole == 0:
            whole = len(part.text)
        self.place += whole
        text = part.text[:whole].decode("utf-8", errors="replace")
        return text.removesuffix("\n").split("\n") if text else []
