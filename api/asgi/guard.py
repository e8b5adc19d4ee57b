"""Host and origin checks of every request, and security headers of every answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import CURRENT
from api.errors import problems
from api.errors.kinds import UNFORESEEN, ForeignOriginError, UnknownHostError
from forecast.errors import ForecastError

# DNS rebinding: a foreign page can point its own name at 127.0.0.1 and read answers through a browser. So only known
# host names are served.
_LOOPBACK = r"localhost|127\.0\.0\.1|\[::1\]"

# plotly adds one empty style element and fills it through the object model: this is the hash of the empty text.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

STRICT = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {_EMPTY_STYLE}; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DOCUMENTATION = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger UI and ReDoc need an inline script; their pages contain no names chosen by users."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logging.getLogger("api")
_DOCUMENTATION_PATHS = ("/docs", "/redoc")
HEADERS = {
    "Content-Security-Policy": STRICT,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers send "Origin: null" with forms, and forms of our own pages would be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


HEAD_ASKED = "forecast.head_asked"
"""Key in a request's scope: the client sent HEAD, so a stream must end after its headers."""

_FOREIGN_HOST = UnknownHostError(
    "host.unknown", "this host name is not allowed", "use localhost, or start the service with --allowed-host"
)
_FOREIGN_ORIGIN = ForeignOriginError(
    "origin.foreign", "pages of other sites may not write here", "send the request from a program"
)


class SecurityHeaders:
    """Refuses unknown hosts and writes from foreign pages; adds security headers; answers unexpected errors."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        """``hosts`` are exact names, in addition to those of the loopback addresses."""
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
        if is_head:  # answered as GET, without the body
            scope = {**scope, "method": "GET", HEAD_ASKED: True}
        ours = self._documentation if scope["path"].startswith(_DOCUMENTATION_PATHS) else self._headers
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _secured(message["headers"], ours)
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
            # A request's boundary: a failure must neither close the connection nor reveal its reason to the client.
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
        # Browsers name the page that sends a write; programs name none.
        if origin is None or scope["method"] in _READS or origin in {b"http://" + host, b"https://" + host}:
            return None
        return _FOREIGN_ORIGIN


def _raw(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


def _secured(headers: list[tuple[bytes, bytes]], ours: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Add the security headers; an answer without ``Cache-Control`` and ``ETag`` must not be cached."""
    names = {name for name, _ in headers}
    kept = headers if names.isdisjoint(ours) else [pair for pair in headers if pair[0] not in ours]
    caching = (
        [] if b"cache-control" in names else [(b"cache-control", b"no-cache" if b"etag" in names else b"no-store")]
    )
    return [*kept, *ours.items(), *caching]
