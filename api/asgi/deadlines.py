"""HTTP with deadlines per connection: uvicorn waits without limit for headers, and for clients that do not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar, Literal

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.asgi.admission import Admission
from api.limits import Limits

_LONGEST_HEAD = 64 * 2**10
_MOST_DISCARDED = 2**20
_ALWAYS_ANSWERED = (b"/healthz", b"/readyz", b"/metrics")
_GRACE_SECONDS = 5.0
"""Added to a body's deadline: :class:`~api.requests.body_limit.LimitedBody` comes first and answers the request."""


class DeadlineProtocol(HttpToolsProtocol):
    """One connection; it is closed when its client misses a deadline."""

    limits: ClassVar[Limits]
    admission: ClassVar[Admission]
    busy: ClassVar[ASGIApp]
    """The application that answers when too many requests wait."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._served = self.app
        self._awaits: Literal["headers", "body"] = "headers"
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._head = 0
        """Bytes of incomplete headers."""
        self._discarded = 0
        """Bytes of a body that arrived after the answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for headers, or refuse the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "connections.too_many", "the service has too many connections", "retry later")
        else:
            self._wait(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse the data; incomplete headers or bodies get a deadline."""
        if self.transport.is_closing():
            return
        if self._awaits == "headers":
            self._head += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._rest()
        elif self._awaits == "headers" and self._head > _LONGEST_HEAD:
            self._refuse(431, "headers.too_large", "the headers exceed 64 KiB", "send shorter headers")
        elif self._deadline is None and self._awaits == "body":
            self._wait(self.limits.body_seconds + _GRACE_SECONDS)
        elif self._deadline is None and self._head:
            self._wait(self.limits.header_seconds)

    def on_headers_complete(self) -> None:
        """Start the request, or answer at once if too many requests wait."""
        self._awaits, self._head = "body", 0
        self._rest()
        # Admission bounds the requests that work and wait; further ones would only slow down all of them.
        most = self.limits.max_requests + self.limits.max_waiting
        idle = self.admission.answering + self.admission.arriving
        crowded = len(self.tasks) - idle >= most and self.url not in _ALWAYS_ANSWERED
        self.app = type(self).busy if crowded else self._served
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body; a client that goes on sending after the answer is cut off."""
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _MOST_DISCARDED:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the deadline of the body."""
        self._awaits, self._discarded = "headers", 0
        self._rest()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Start the deadline for the client to read."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """End the deadline for the client to read."""
        super().resume_writing()
        self._rest_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._rest()
        self._rest_writing()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._late)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _rest_writing(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._awaits == "headers" and self._head and not self.transport.is_closing():
            self._refuse(408, "headers.too_slow", "the headers took too long to arrive", "send all headers at once")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, detail: str, remedy: str) -> None:
        problem = {"type": "about:blank", "title": "Refused", "status": status, "code": code, "detail": detail}
        body = json.dumps(problem | {"remedy": remedy})
        again = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-store\r\n{again}Connection: close\r\n\r\n"
        )
        self._rest()
        self.transport.write((head + body).encode())
        self.transport.close()


def protocol_of(limits: Limits, admission: Admission, busy: ASGIApp) -> type[DeadlineProtocol]:
    """Return the protocol class of one server."""
    own = {"limits": limits, "admission": admission, "busy": busy}
    return type("OwnDeadlineProtocol", (DeadlineProtocol,), own)
