"""Errors that a user can meet: each has a stable code, the fact, and the remedy.

The class is the kind of failure; it decides the exit code of the command line and the HTTP status. The code identifies
the failure and never changes once released.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

_SHOWN = 12


class ForecastError(Exception):
    """Root of all errors: a stable ``code``, a fact and a remedy.

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
        """Pickle the arguments, so that the error survives the way from another process."""
        return type(self), (self.code, self.fact, self.remedy)


class ConfigError(ForecastError, ValueError):
    """The config file or an option is invalid.

    Also a ``ValueError``, so that pydantic collects it with its location beside the other mistakes of the file.
    """

    exit_code = 2


class NotFoundError(ForecastError):
    """The requested data set, series, channel, forecast or file does not exist."""

    exit_code = 3


class DataError(ForecastError):
    """Ingested rows, or the history as a whole, are not usable."""

    exit_code = 4


class StorageError(ForecastError):
    """A file, folder, table or database cannot be read or written."""

    exit_code = 5


class ConflictError(ForecastError):
    """The request conflicts with the present state: another process holds a port, a lock or a logical date."""

    exit_code = 6


class TrainingError(ForecastError):
    """A model could not be trained, exported or evaluated."""

    exit_code = 7


class UnavailableError(ForecastError):
    """A prerequisite does not exist yet: no champion, no forecast, no running service."""

    exit_code = 8


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown word: the nearest known one, or the list of known ones.

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
        return "none exist yet"
    shown = ", ".join(names[:_SHOWN])
    return f"known are: {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def first_line(error: BaseException) -> str:
    r"""Return the first line of a library's error message, which may be pages long; without a message, its class.

    >>> first_line(ValueError("no such table\nbackground on this error at ...")), first_line(KeyboardInterrupt())
    ('no such table', 'KeyboardInterrupt')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)
