"""The context of a request: its id, its route, and the access of its key."""

from __future__ import annotations

import itertools
import secrets
from contextvars import ContextVar
from dataclasses import dataclass

from forecast.ledger.keys import Scope


@dataclass(frozen=True, slots=True)
class Access:
    """What the sender of a request may do.

    >>> key = Access(Scope.WRITE, key_id="k1", datasets=frozenset({"plant"}))
    >>> key.may(Scope.READ), key.may(Scope.ADMIN), key.sees("plant"), key.sees("other")
    (True, False, True, False)
    """

    scope: Scope | None
    """``None``: only public routes."""
    key_id: str | None = None
    datasets: frozenset[str] = frozenset()
    """The data sets that the key is limited to; empty: all."""
    session: str | None = None
    """The signed cookie of a browser session."""
    csrf: str | None = None
    """The CSRF token that writes of the session must send."""

    @property
    def is_limited(self) -> bool:
        """Whether the key is limited to some data sets."""
        return bool(self.datasets)

    def may(self, scope: Scope) -> bool:
        """Whether this access includes ``scope``."""
        return self.scope is not None and self.scope.implies(scope)

    def sees(self, dataset: str) -> bool:
        """Whether the key is valid for a data set."""
        return not self.datasets or dataset in self.datasets


EVERYTHING = Access(Scope.ADMIN)
"""The access of every client of a service without keys, on the loopback address."""
NOTHING = Access(None)


_PROCESS, _NUMBERS = secrets.token_hex(6), itertools.count(1)


class RequestContext:
    """What the layers learn about a request, for its log line, its metrics and its problem document."""

    __slots__ = ("access", "request_id", "template")

    def __init__(self, request_id: str | None = None) -> None:
        self.request_id = request_id or f"{_PROCESS}-{next(_NUMBERS):x}"
        self.template = "unmatched"
        """The route's path as declared; never the path that was sent."""
        self.access = NOTHING


CURRENT: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
"""The context of the request that the present task or thread works for."""


def access() -> Access:
    """Return the access of the present request; outside of a request the service has full access."""
    context = CURRENT.get()
    return EVERYTHING if context is None else context.access
