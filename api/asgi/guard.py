"""What every answer and every request must satisfy: exact host names, and headers that bind the browser."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import CURRENT
from api.errors import problems
from api.errors.kinds import UNFORESEEN, ForeignOriginError, UnknownHostError
from forecast.errors import ForecastError

# A page elsewhere can point its own name at 127.0.0.1 and read what a browser fetches there: only our names are served.
_LOOPBACK = r"localhost|127\.0\.0\.1|\[::1\]"

# plotly adds one empty style element and fills it through the object model: the hash is that of the empty text.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

STRICT = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {_EMPTY_STYLE}; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DOCUMENTATION = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger UI and ReDoc start from a script inside their page; nothing of ours that a user names is on it."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logging.getLogger("api")
_DOCUMENTATION_PATHS = ("/docs", "/redoc")
HEADERS = {
    "Content-Security-Policy": STRICT,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" a browser says of no form where it comes from ("Origin: null"), and our own would be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


HEAD_ASKED = "forecast.head_asked"
"""Key of a request's scope: an answer that never ends must end after its headers."""

_FOREIGN_HOST = UnknownHostError(
    "host.unknown", "this service does not answer to that host name", "use localhost, or start it with --allowed-host"
)
_FOREIGN_ORIGIN = ForeignOriginError(
    "origin.foreign", "a page of another site may not write here", "send the request from a program"
)


class SecurityHeaders:
    """Refuses foreign hosts and writes from foreign pages, and sees to the headers and failures of all answers."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        """``hosts`` are exact names beside those of the loopback addresses."""
        self._app = app
        names = "|".join([_LOOPBACK, *(re.escape(host) for host in hosts)])
        self._host = re.compile(rf"({names})(:\d{{1,5}})?".encode(), re.IGNORECASE)
        self._headers = _raw(HEADERS)
        self._documentation = _raw(HEADERS | {"Content-Security-Policy": DOCUMENTATION})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        if is_head:  # the answer to GET, with its headers, but for the body
            scope = {**scope, "method": "GET", HEAD_ASKED: True}
        ours = self._documentation if scope["path"].startswith(_DOCUMENTATION_PATHS) else self._headers
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _bound(message["headers"], ours)
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        refusal = self._refusal_of(scope)
        if refusal is not None:
            await problems.answer(refusal)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception:
            # The boundary of a request: one that fails must neither take its connection along nor tell a stranger why.
            context = CURRENT.get()
            _log.exception("%s %s failed", scope["method"], context.template if context else "a request")
            if started:
                raise
            await problems.answer(UNFORESEEN)(scope, receive, send_guarded)

    def _refusal_of(self, scope: Scope) -> ForecastError | None:
        host, origin = b"", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if not self._host.fullmatch(host):
            return _FOREIGN_HOST
        # A browser names the page that a write comes from; programs name none.
        if origin is None or scope["method"] in _READS or origin in {b"http://" + host, b"https://" + host}:
            return None
        return _FOREIGN_ORIGIN


def _raw(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


def _bound(message: list[tuple[bytes, bytes]], ours: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Add our headers to those of an answer; a route that says nothing of caches gets none."""
    names = {name for name, _ in message}
    kept = message if names.isdisjoint(ours) else [pair for pair in message if pair[0] not in ours]
    caching = (
        [] if b"cache-control" in names else [(b"cache-control", b"no-cache" if b"etag" in names else b"no-store")]
    )
    return [*kept, *ours.items(), *caching]
