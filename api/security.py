"""What every answer and every request must satisfy: exact host names, and headers that bind the browser."""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A page elsewhere can point its own name at 127.0.0.1 and read what a browser fetches there: only our names are served.
_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)

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
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


HEAD_ASKED = "forecast.head_asked"
"""Key of a request's scope: an answer that never ends must end after its headers."""


class Guard:
    """Refuses foreign hosts and writes from foreign pages, and sees to the headers and failures of all answers."""

    def __init__(self, app: ASGIApp, host_refusal: Response, origin_refusal: Response, failure: Response) -> None:
        self._app = app
        self._host_refusal = host_refusal
        self._origin_refusal = origin_refusal
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        if is_head:  # the answer to GET, with its headers, but for the body
            scope = {**scope, "method": "GET", HEAD_ASKED: True}
        headers = HEADERS
        if scope["path"].startswith(_DOCUMENTATION_PATHS):
            headers = HEADERS | {"Content-Security-Policy": DOCUMENTATION}
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(headers)
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        refusal = self._refusal_of(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception:
            # The boundary of a request: one that fails must neither take its connection along nor tell a stranger why.
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await self._failure(scope, receive, send_guarded)

    def _refusal_of(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _HOST.fullmatch(host):
            return self._host_refusal
        # A browser names the page that a write comes from; programs name none.
        if scope["method"] not in _READS and origin not in {None, f"http://{host}", f"https://{host}"}:
            return self._origin_refusal
        return None
