"""One request and its answer, as the layers around the routes see them."""

from __future__ import annotations

import itertools
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

from forecast.errors import ForecastError
from forecast.ledger.keys import Scope


class UnauthenticatedError(ForecastError):
    """What is asked for needs a key, and none that is valid was sent."""


class ForbiddenError(ForecastError):
    """Whoever asks is known, but may not do this."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the sender of a request may do."""

    scope: Scope | None
    """``None``: nothing that needs a key."""
    key_id: str | None = None
    datasets: frozenset[str] = frozenset()
    """The data sets that the key is limited to; empty: all."""
    session: str | None = None
    """The signed cookie of a browser that has logged in."""
    csrf: str | None = None
    """The token that writes of the session carry."""

    @property
    def is_limited(self) -> bool:
        """Whether only some data sets are seen."""
        return bool(self.datasets)

    def may(self, scope: Scope) -> bool:
        """Whether this is enough for what needs ``scope``."""
        return self.scope is not None and self.scope.implies(scope)

    def sees(self, dataset: str) -> bool:
        """Whether a data set may be told of."""
        return not self.datasets or dataset in self.datasets

    def require(self, dataset: str) -> None:
        """Raise ``key.other_dataset`` for a data set that is none of the key's business."""
        if not self.sees(dataset):
            raise ForbiddenError(
                "key.other_dataset", "the key is limited to other data sets", "ask for a key of this data set"
            )


EVERYTHING = Access(Scope.ADMIN)
"""The access of everybody on a machine whose service has no keys."""
NOTHING = Access(None)


_PROCESS, _NUMBERS = secrets.token_hex(6), itertools.count(1)


class RequestContext:
    """What is learnt of a request on its way in, for its log line, its figures and its problem document."""

    __slots__ = ("access", "request_id", "template")

    def __init__(self, request_id: str | None = None) -> None:
        self.request_id = request_id or f"{_PROCESS}-{next(_NUMBERS):x}"
        self.template = "unmatched"
        """The route as declared, never what was sent."""
        self.access = NOTHING


CURRENT: ContextVar[RequestContext | None] = ContextVar("exchange", default=None)
"""The exchange that the present task or thread works for."""


def access() -> Access:
    """Return the access of the present request; outside of one, the service works for itself."""
    exchange = CURRENT.get()
    return EVERYTHING if exchange is None else exchange.access
