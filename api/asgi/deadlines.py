"""HTTP on a socket with deadlines: uvicorn alone waits for ever for headers, and for clients that do not read."""

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
"""A route's own deadline for its body comes first: it answers."""


class DeadlineProtocol(HttpToolsProtocol):
    """One connection, which ends when its client makes it wait."""

    limits: ClassVar[Limits]
    admission: ClassVar[Admission]
    busy: ClassVar[ASGIApp]
    """Answers what comes when too much waits already."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._served = self.app
        self._awaits: Literal["headers", "body"] = "headers"
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._head = 0
        """Bytes of headers that are not whole yet."""
        self._discarded = 0
        """Bytes of a body that came after the answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "connections.too_many", "the service has too many connections", "come again later")
        else:
            self._wait(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse what came; whatever is not whole after that has a deadline."""
        if self.transport.is_closing():
            return
        if self._awaits == "headers":
            self._head += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._rest()
        elif self._awaits == "headers" and self._head > _LONGEST_HEAD:
            self._refuse(431, "headers.too_large", "the headers are too long", "send less than 64 KiB")
        elif self._deadline is None and self._awaits == "body":
            self._wait(self.limits.body_seconds + _GRACE_SECONDS)
        elif self._deadline is None and self._head:
            self._wait(self.limits.header_seconds)

    def on_headers_complete(self) -> None:
        """Start the request, or answer at once that there are too many."""
        self._awaits, self._head = "body", 0
        self._rest()
        # What works and waits is bounded by admission; what came even later would only make all of them slow.
        most = self.limits.max_requests + self.limits.max_waiting
        idle = self.admission.answering + self.admission.arriving
        crowded = len(self.tasks) - idle >= most and self.url not in _ALWAYS_ANSWERED
        self.app = type(self).busy if crowded else self._served
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on; who was answered and goes on sending is cut off."""
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _MOST_DISCARDED:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the wait for the body."""
        self._awaits, self._discarded = "headers", 0
        self._rest()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """End the wait for the client to read."""
        super().resume_writing()
        self._rest_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
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
            self._refuse(408, "headers.too_slow", "the headers took too long to arrive", "send them at once")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, detail: str, remedy: str) -> None:
        message = {"type": "about:blank", "title": "Refused", "status": status, "code": code, "detail": detail}
        body = json.dumps(message | {"remedy": remedy})
        again = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-store\r\n{again}Connection: close\r\n\r\n"
        )
        self._rest()
        self.transport.write((head + body).encode())
        self.transport.close()


def protocol_of(limits: Limits, admission: Admission, busy: ASGIApp) -> type[DeadlineProtocol]:
    """Return the protocol of one server."""
    own = {"limits": limits, "admission": admission, "busy": busy}
    return type("OwnDeadlineProtocol", (DeadlineProtocol,), own)
