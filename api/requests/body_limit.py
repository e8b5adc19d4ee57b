"""A body on its way in: never more bytes than the cap, never longer than the deadline, whichever route reads it."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from api.requests.bodies import too_large, too_slow
from forecast.errors import ForecastError


class RefusedBody(HTTPException):
    """A body is refused while a route reads it; an ``HTTPException``, which frameworks let through as it is."""

    def __init__(self, error: ForecastError) -> None:
        super().__init__(400)
        self.error = error


class LimitedBody:
    """A ``receive`` that counts; once the body is there, it only passes on."""

    __slots__ = ("_deadline", "_is_whole", "_kept", "_largest", "_receive", "_seconds", "_size")

    def __init__(self, receive: Receive, largest: int, seconds: float) -> None:
        self._receive = receive
        self._largest = largest
        self._seconds = seconds
        self._size = 0
        self._deadline: float | None = None
        self._is_whole = False
        self._kept: deque[Message] = deque()

    async def arrive(self) -> None:
        """Wait until the body is there, and keep it for whoever reads it; raises :class:`RefusedBody`."""
        while not self._is_whole:
            self._kept.append(await self._next())

    async def __call__(self) -> Message:
        """Return the next piece; raises :class:`RefusedBody`."""
        return self._kept.popleft() if self._kept else await self._next()

    async def _next(self) -> Message:
        if self._is_whole:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise RefusedBody(too_slow(self._seconds)) from None
        self._size += len(message.get("body", b""))
        if self._size > self._largest:
            raise RefusedBody(too_large(self._largest))
        self._is_whole = not message.get("more_body", False)
        return message
