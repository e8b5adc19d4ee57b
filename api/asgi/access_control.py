"""Authentication, rate limits, scopes and admission, checked before the route and before a body is read."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.asgi.admission import Admission, Rates
from api.auth.keyring import Keyring
from api.auth.scopes import RouteScope, RouteScopes
from api.auth.sessions import Sessions, cookie_in
from api.context import EVERYTHING, NOTHING, Access, RequestContext
from api.errors import problems
from api.errors.kinds import BUSY, ForbiddenError, RefusedBody, UnauthenticatedError, too_large, too_many
from api.limits import Limits
from api.observability.metrics import Metrics
from api.requests.body_limit import LimitedBody
from forecast.errors import ForecastError

_READ_HEADERS = frozenset(
    (b"authorization", b"x-api-key", b"cookie", b"x-csrf-token", b"content-length", b"transfer-encoding", b"accept")
)
_READS = frozenset({"GET", "OPTIONS"})  # the guard made a GET of HEAD
_AT_ONCE = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered even under overload: an orchestrator decides by them whether to restart this process."""
_SMALL = 100_000
"""A body of fewer bytes is received before the request is admitted: a slow sender occupies no place."""
_LOGIN = "/login"


class AccessControl:
    """ASGI layer that checks a request's key, rate, scope and body size, then waits for admission.

    An error is answered here, and the route is not called.
    """

    def __init__(
        self, app: ASGIApp, routes: RouteScopes, keyring: Keyring, sessions: Sessions, limits: Limits,
        admission: Admission, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._app = app
        self._routes = routes
        self._keyring = keyring
        self._sessions = sessions
        self._max_body = limits.max_body
        self._body_seconds = limits.body_seconds
        self._admission = admission
        self._metrics = metrics
        self._rates = Rates(limits.rate_per_second, limits.rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: RequestContext = scope["context"]
        method = scope["method"]
        headers = {name: value for name, value in scope["headers"] if name in _READ_HEADERS}
        found = self._routes.find(method, scope["path"])
        route, dataset = found or (None, None)
        if route is not None:
            context.template = route.template
        try:
            self._check(scope, headers, context, route, dataset)
        except ForecastError as error:
            await self._refused(error, route, headers)(scope, receive, send)
            return
        if b"content-length" in headers or b"transfer-encoding" in headers:
            receive = body = LimitedBody(receive, self._max_body, self._body_seconds)
            if _length(headers, unknown=_SMALL) < _SMALL:
                self._admission.arriving += 1
                try:
                    await body.arrive()
                except RefusedBody as refused:
                    await self._refused(refused.error, route, headers)(scope, receive, send)
                    return
                finally:
                    self._admission.arriving -= 1
        if route is None and not self._keyring.is_open:  # without a known scope the routes are not searched
            await self._without_route(scope["path"])(scope, receive, send)
        elif route is None or route.template in _AT_ONCE:
            await self._app(scope, receive, send)
        elif self._admission.try_enter(route.template) or await self._admission.enter(route.template):
            await self._work(route.template, scope, receive, send)
        else:
            await self._refused(BUSY, route, headers)(scope, receive, send)

    def _check(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        context: RequestContext,
        route: RouteScope | None,
        dataset: str | None,
    ) -> None:
        access = EVERYTHING if self._keyring.is_open else self._access(headers, scope["method"], route)
        context.access = access
        wait = self._rates.wait(access.key_id or _address(scope))
        if wait:
            raise too_many(wait)
        if route is not None:
            route.check(access, dataset)
        if _length(headers) > self._max_body:
            raise too_large(self._max_body)

    def _access(self, headers: dict[bytes, bytes], method: str, route: RouteScope | None) -> Access:
        given = headers.get(b"x-api-key")
        if given is None and b"authorization" in headers:
            kind, _, given = headers[b"authorization"].partition(b" ")
            if kind.lower() != b"bearer":
                given = b""
        if given is not None:  # a key takes precedence over a cookie that the browser adds
            return self._keyring.identify(given.strip().decode("latin-1")) or NOTHING
        cookie = cookie_in(headers[b"cookie"].decode("latin-1")) if b"cookie" in headers else None
        access = self._sessions.recognise(cookie) if cookie else None
        if access is None or cookie is None:
            return NOTHING
        if method not in _READS and route is not None and route.scope is not None:
            token = headers.get(b"x-csrf-token", b"").decode("latin-1")
            if not self._sessions.has_token(cookie, token):
                raise ForbiddenError(
                    "csrf.missing", "a write of a browser session requires its token", "send it as X-CSRF-Token"
                )
        return access

    async def _work(self, template: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Occupy a place until the answer begins: sending it to a slow client costs no computation."""
        works = True

        async def send_and_leave(message: Message) -> None:
            nonlocal works
            if works:
                works = False
                self._admission.leave(template)
                self._admission.answering += 1
            await send(message)

        try:
            await self._app(scope, receive, send_and_leave)
        finally:
            if works:
                self._admission.leave(template)
            else:
                self._admission.answering -= 1

    def _without_route(self, path: str) -> Response:
        methods = self._routes.methods(path)
        if methods:
            return problems.without_route(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(methods)})
        return problems.without_route(HTTPStatus.NOT_FOUND, {})

    def _refused(self, error: ForecastError, route: RouteScope | None, headers: dict[bytes, bytes]) -> Response:
        self._metrics.refused(error.code)
        is_browser = route is not None and route.is_page and b"text/html" in headers.get(b"accept", b"")
        if isinstance(error, UnauthenticatedError) and is_browser:
            return RedirectResponse(_LOGIN, 303)
        return problems.answer(error)


def _length(headers: dict[bytes, bytes], unknown: int = 0) -> int:
    """Return the declared Content-Length. Only its first 20 digits are parsed, so a huge number costs no time."""
    digits = headers.get(b"content-length", b"")
    return int(digits[:20]) if digits.isdigit() else unknown


def _address(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else ""
