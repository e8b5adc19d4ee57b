"""The outermost layer: gives each request an id, and counts, logs and traces its answer."""

from __future__ import annotations

import re
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import CURRENT, RequestContext
from api.observability.logs import log_request
from api.observability.metrics import Metrics
from api.observability.tracing import Tracer

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499


class Observer:
    """Observes requests and answers; it only adds the header ``X-Request-Id``."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        context = scope["context"] = RequestContext(_given_id(scope))
        token = CURRENT.set(context)
        answered: float | None = None
        status = _CLIENT_LEFT
        own = (b"x-request-id", context.request_id.encode())
        metrics = self._metrics

        async def send_observed(message: Message) -> None:
            nonlocal answered, status
            if answered is None and message["type"] == "http.response.start":
                answered, status = perf_counter() - began, message["status"]
                message["headers"] = [*message["headers"], own]
            await send(message)

        metrics.in_flight += 1
        span = self._tracer.begin(scope) if self._tracer else None
        try:
            await self._app(scope, receive, send_observed)
        finally:
            metrics.in_flight -= 1
            seconds = perf_counter() - began
            metrics.observe(context.template, scope["method"], status, seconds if answered is None else answered)
            log_request(context, scope["method"], status, seconds)
            if span is not None and self._tracer is not None:
                self._tracer.end(span, context, scope["method"], status)
            CURRENT.reset(token)


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _ID.fullmatch(value) else None
    return None
