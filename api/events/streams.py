"""Server-sent events: streams of ledger events and of one run, until the client leaves or the service stops."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio.to_thread import run_sync
from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from api.asgi.guard import HEAD_ASKED
from api.errors.problems import answer
from api.events.run_log import FollowedLog
from api.service import Service
from api.state.event_feed import Feed, Wanted
from forecast.errors import ConfigError, ForecastError, UnavailableError
from forecast.ledger.events import Event
from forecast.ledger.run import ENDED, Run
from forecast.scheduling.processes import works

MEDIA_TYPE = "text/event-stream"
_HEARTBEAT_SECONDS = 10
_SEND_SECONDS = 20
_RECONNECT_MS = 1000
_LOOK_AGAIN_SECONDS = 5.0
_LAST_WORDS_SECONDS = 5.0
_PIECE = 2**16
_RUN_ID = re.compile(r"(\d{1,18})-(\d{1,18})(-end)?")
_log = logging.getLogger("api")


class Stream(EventSourceResponse):
    """A streaming response; it counts as a client of the feed while it lasts."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], feed: Feed) -> None:
        super().__init__(events, ping=_HEARTBEAT_SECONDS, send_timeout=_SEND_SECONDS)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, or refuse if there are too many streams."""
        if scope.get(HEAD_ASKED):
            await super().__call__({**scope, "method": "HEAD"}, receive, send)
            return
        try:
            with self._feed.place():
                await super().__call__(scope, receive, send)
        except UnavailableError as error:
            await answer(error)(scope, receive, send)
        except SendTimeoutError:
            _log.info("a client of an event stream does not read: its stream is closed")


async def ledger_events(feed: Feed, wanted: Wanted, position: int) -> AsyncIterator[ServerSentEvent]:
    """Yield the events after a position. It is determined before the answer begins, so no event is missed."""
    yield ServerSentEvent(comment="events follow", retry=_RECONNECT_MS)
    try:
        while not feed.is_closing:
            events, position, is_level = await feed.after(position, wanted)
            for event in events:
                yield _sent_event(event, str(event.sequence))
            if is_level:
                await feed.turn()
    except ForecastError as error:  # the client reconnects and receives the problem document
        _log.error("a stream of events ended: %s [%s]", error, error.code)


class RunStream:
    """The states, the progress and the log of one run, until it has ended.

    The id of a message is ``<last event>-<bytes of the log>`` that the client has received; the last id ends with
    ``-end``.
    """

    def __init__(self, service: Service, run: Run, position: int, place: int) -> None:
        self._feed = service.feed
        self._ledger = service.installation.ledger
        self._run = run
        self._wanted = Wanted(run_id=run.run_id)
        self._position = position
        self._log = FollowedLog(service.installation.home.run_log(run.run_id), place)
        self._looked_at = 0.0
        self._newest = 0
        """The newest event when the run's row was read."""

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield all messages in order."""
        yield ServerSentEvent(comment=f"run {self._run.run_id} follows", retry=_RECONNECT_MS)
        try:
            async for message in self._messages():
                yield message
        except ForecastError as error:
            _log.error("a stream of run %d ended: %s [%s]", self._run.run_id, error, error.code)

    async def _messages(self) -> AsyncIterator[ServerSentEvent]:
        position = self._position
        await self._look()
        while not self._feed.is_closing:
            events, position, is_level = await self._feed.after(position, self._wanted)
            last = None
            for event in events:
                if event.kind == "run" and event.document.get("state") in ENDED:
                    last = event
                else:
                    self._position = event.sequence
                    yield _sent_event(event, self._id)
            if last is None and anyio.current_time() - self._looked_at > _LOOK_AGAIN_SECONDS:
                await self._look()
            # A run that was coalesced into a later one, or executed by an earlier release, ends without an event.
            has_ended = is_level and self._run.has_ended and position >= self._newest
            if last is not None or has_ended:
                async for message in self._end(last):
                    yield message
                return
            async for message in self._lines(is_over=False):
                yield message
            if is_level:
                await self._feed.turn()

    async def _end(self, last: Event | None) -> AsyncIterator[ServerSentEvent]:
        """Yield the rest of the log, then the final state."""
        await self._look()
        with anyio.move_on_after(_LAST_WORDS_SECONDS):
            while works(self._run.host, self._run.pid, self._run.run_id) and not self._feed.is_closing:
                await self._feed.turn()
        async for line in self._lines(is_over=True):
            yield line
        if self._feed.is_closing:
            return
        if last is None:
            ended_at = self._run.ended_at or self._run.claimed_at
            document = {"state": self._run.state, "reason": self._run.reason}
            last = Event(self._position, ended_at, "run", self._run.dataset, self._run.run_id, document)
        yield _sent_event(last, f"{last.sequence}-{self._log.place}-end")

    async def _lines(self, *, is_over: bool) -> AsyncIterator[ServerSentEvent]:
        def read() -> list[str]:
            return self._log.lines(_PIECE, is_over=is_over)

        while lines := await run_sync(read, limiter=self._feed.threads):
            yield ServerSentEvent(_json({"lines": lines}), event="log", id=self._id)

    async def _look(self) -> None:
        self._run = await run_sync(self._ledger.runs.get, self._run.run_id, limiter=self._feed.threads)
        if self._run.has_ended:
            self._newest = await self._feed.newest()
        self._looked_at = anyio.current_time()

    @property
    def _id(self) -> str:
        return f"{self._position}-{self._log.place}"


def event_of(last_event_id: str | None, after: int | None) -> int | None:
    """Return the event after which a client continues."""
    if last_event_id is None:
        return after
    if not re.fullmatch(r"\d{1,18}", last_event_id, re.ASCII):
        raise _malformed()
    return int(last_event_id)


def place_in_run(last_event_id: str | None) -> tuple[int, int, bool]:
    """Return the event and the position in the log after which a client continues, and whether it has everything."""
    if last_event_id is None:
        return 0, 0, False
    found = _RUN_ID.fullmatch(last_event_id)
    if found is None or not last_event_id.isascii():
        raise _malformed()
    return int(found[1]), int(found[2]), found[3] is not None


def _malformed() -> ConfigError:
    return ConfigError(
        "last_event_id.malformed", "Last-Event-ID is not the id of an event of this stream", "send the id unchanged"
    )


def _sent_event(event: Event, number: str) -> ServerSentEvent:
    document = {"at": event.at, "kind": event.kind, "dataset": event.dataset, "run_id": event.run_id}
    return ServerSentEvent(_json({**document, "details": event.document}), event=event.kind, id=number)


def _json(document: dict[str, Any]) -> str:
    return to_json(document, inf_nan_mode="null").decode()
