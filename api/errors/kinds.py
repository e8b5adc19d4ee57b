"""Every error class of the API; :data:`api.errors.problems.STATUS` maps each class to an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from starlette.exceptions import HTTPException

from forecast.errors import ConfigError, ForecastError, UnavailableError


class UnauthenticatedError(ForecastError):
    """The request needs a key and has no valid one."""


class ForbiddenError(ForecastError):
    """The key is valid, but does not allow this request."""


class NotAcceptableError(ForecastError):
    """The client accepts none of the offered formats."""


class UnknownHostError(ForecastError):
    """The ``Host`` header names another host."""


class ForeignOriginError(ForecastError):
    """A page of another site made a browser send this write."""


class TooManyError(ForecastError):
    """One sender exceeds its rate."""

    seconds = 1
    """Seconds until it may send again."""


class BusyError(ForecastError):
    """The service has more requests than it can answer."""


class OverloadedError(UnavailableError):
    """A model has more requests than it can answer in time."""

    retry_after: ClassVar[int] = 1
    """Seconds."""


class TooLargeError(ForecastError):
    """A body exceeds the size limit."""


class SlowBodyError(ForecastError):
    """A body did not arrive before its deadline."""


class UnsupportedError(ForecastError):
    """A body has a media type or a compression that the service does not read."""


class UnforeseenError(ForecastError):
    """An unexpected failure, without a code of its own."""


class InvalidDocumentError(ConfigError):
    """A body or a query has invalid fields; the problem document lists each of them under ``mistakes``."""

    def __init__(self, code: str, fact: str, remedy: str = "", mistakes: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(code, fact, remedy)
        self.mistakes = mistakes


class RefusedBody(HTTPException):
    """Carries the error of a body through FastAPI, which passes on an ``HTTPException`` unchanged."""

    def __init__(self, error: ForecastError) -> None:
        super().__init__(400)
        self.error = error


BUSY = BusyError("service.busy", "the service is overloaded", "retry in a second")
UNFORESEEN = UnforeseenError("internal", "the service failed unexpectedly", "see the service's log")


def too_many(seconds: int) -> TooManyError:
    """Return the error for a sender that must wait ``seconds``."""
    error = TooManyError("rate.exceeded", "this sender exceeds its request rate", f"wait {seconds} s")
    error.seconds = seconds
    return error


def too_large(largest: int) -> TooLargeError:
    """Return the error for a body of more than ``largest`` bytes."""
    return TooLargeError(
        "body.too_large", f"the body exceeds {largest // 2**20} MiB", "send the rows in several requests"
    )


def too_slow(seconds: float) -> SlowBodyError:
    """Return the error for a body that did not arrive within ``seconds``."""
    return SlowBodyError("body.too_slow", f"the body took longer than {seconds:g} s to arrive", "send smaller bodies")
