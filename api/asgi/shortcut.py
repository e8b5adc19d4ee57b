"""Answers that need no route: a forecast that was asked for in the same words before, as long as it is the latest.

Finding the route and reading its parameters takes most of the time of an answer that lies in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from api.forecasts.encoding import age_text
from api.observability.metrics import Metrics
from api.requests.negotiation import names
from api.state.issued import IssuedForecast, age_of
from api.state.latest import LatestForecasts
from api.state.lru import Recent
from forecast.config.dataset import DatasetConfig

_BYTES = 32 * 2**20
_ENDING = "/forecast"
_UNCHANGING = ((b"cache-control", b"no-cache"), (b"vary", b"Accept"))

Words = tuple[str, bytes, bytes | None]
"""Path, query and ``Accept`` as they were sent."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A part of the latest forecast, as JSON."""

    issued: IssuedForecast
    config: DatasetConfig
    rest: bytes
    """All but the age."""
    fresh_tag: str
    stale_tag: str


class ReadyAnswers:
    """Remembers answers by the words they were asked for with."""

    def __init__(self, latest: LatestForecasts, metrics: Metrics) -> None:
        self._latest = latest
        self._metrics = metrics
        self._held: Recent[Words, Ready] = Recent(_BYTES)

    def keep(self, scope: Scope, ready: Ready) -> None:
        """Remember an answer to a request; it is given until another forecast is the latest."""
        words, _ = _asked(scope)
        self._held.keep(words, ready, len(ready.rest) + len(words[1]))

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer a request, if its answer is known."""
        words, known = _asked(scope)
        ready = self._held.get(words)
        if ready is None:
            return False
        issued, dataset = ready.issued, ready.issued.issuance.dataset
        if self._latest.find(dataset) is not issued:
            return False
        age, stale = age_of(issued, ready.config, self._latest.now(dataset))
        tag = ready.stale_tag if stale else ready.fresh_tag
        headers = [(b"etag", tag.encode()), *_UNCHANGING]
        if known is not None and names(known.decode("latin-1"), tag):
            self._metrics.answered("not_modified")
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return True
        self._metrics.answered("memory")
        begin = age_text(age, stale=stale)
        length = len(begin) + len(ready.rest)
        headers += ((b"content-length", b"%d" % length), (b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # In two pieces: joining them would copy the whole answer.
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        await send({"type": "http.response.body", "body": ready.rest})
        return True


class Shortcut:
    """The innermost layer: past the routes where the answer is known."""

    def __init__(self, app: ASGIApp, ready: ReadyAnswers) -> None:
        self._app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        is_asked = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith(_ENDING)
        if not (is_asked and await self._ready.answer(scope, send)):
            await self._app(scope, receive, send)


def _asked(scope: Scope) -> tuple[Words, bytes | None]:
    """Return the words of a request, and the tags of what the client has already."""
    accept = known = None
    for name, value in scope["headers"]:
        if name == b"accept" and accept is None:
            accept = value
        elif name == b"if-none-match" and known is None:
            known = value
    return (scope["path"], scope["query_string"], accept), known
