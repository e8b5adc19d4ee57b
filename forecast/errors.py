"""Every failure a user can meet: a stable code, the fact, and the remedy.

The class says what kind of failure it is, and the kind decides the exit code of the command line and the status of the
REST interface; the code says which failure it is and never changes once released.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

_SHOWN = 12


class ForecastError(Exception):
    """A failure with a stable ``code``, told as a fact and a remedy.

    >>> str(NotFoundError("dataset.unknown", 'no data set "etth2"', 'did you mean "etth1"?'))
    'no data set "etth2"; did you mean "etth1"?'
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, fact: str, remedy: str = "") -> None:
        super().__init__(f"{fact}; {remedy}" if remedy else fact)
        self.code = code
        self.fact = fact
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ForecastError], tuple[str, str, str]]:
        """Pickle what the error was made of, so that it comes back whole from another process."""
        return type(self), (self.code, self.fact, self.remedy)


class ConfigError(ForecastError, ValueError):
    """The job file or an option says something that cannot be meant.

    A ``ValueError`` too, so that pydantic collects it with its place beside the file's other mistakes.
    """

    exit_code = 2


class NotFoundError(ForecastError):
    """A data set, series, channel, forecast or file that is asked for does not exist."""

    exit_code = 3


class DataError(ForecastError):
    """Rows that came in, or the history as a whole, cannot be used as they are."""

    exit_code = 4


class StorageError(ForecastError):
    """A file, folder, table or database cannot be read or written."""

    exit_code = 5


class ConflictError(ForecastError):
    """Somebody else holds what is needed: a port, a lock, a logical date."""

    exit_code = 6


class TrainingError(ForecastError):
    """A model could not be trained, exported or evaluated."""

    exit_code = 7


class UnavailableError(ForecastError):
    """Something that is needed first is not there yet: no champion, no forecast, no service."""

    exit_code = 8


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the remedy that names the known word nearest to a mistyped one.

    >>> nearest("horizns", ["horizons", "quantiles"])
    'did you mean "horizons"?'
    >>> nearest("x", ["horizons", "quantiles"])
    'known are: horizons, quantiles'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    if not names:
        return "there are none yet"
    shown = ", ".join(names[:_SHOWN])
    return f"known are: {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def first_line(error: BaseException) -> str:
    r"""Return the first line of what a library says, which may go on for pages; its kind if it says nothing.

    >>> first_line(ValueError("no such table\nbackground on this error at ...")), first_line(KeyboardInterrupt())
    ('no such table', 'KeyboardInterrupt')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)
