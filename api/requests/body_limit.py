"""Limit the size and the arrival time of a body, whichever route reads it."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive

from api.errors.kinds import RefusedBody, too_large, too_slow


class LimitedBody:
    """An ASGI ``receive`` that enforces a size limit and a deadline until the body is complete."""

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
        """Wait for the whole body and keep it for the route; raises :class:`RefusedBody`."""
        while not self._is_whole:
            self._kept.append(await self._next())

    async def __call__(self) -> Message:
        """Return the next message; raises :class:`RefusedBody`."""
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
