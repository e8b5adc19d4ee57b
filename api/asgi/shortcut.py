"""Answer a repeated request for the latest forecast from the cache, without calling its route.

Matching the route and reading its parameters takes most of the time of an answer that is in memory.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from api.forecasts.encoding import age_text
from api.observability.metrics import Metrics
from api.requests.negotiation import names
from api.state.answers import Answers
from api.state.issued import age_of
from api.state.latest import LatestForecasts

_ENDING = "/forecast"
_UNCHANGING = ((b"cache-control", b"no-cache"), (b"vary", b"Accept"))


class Shortcut:
    """The innermost layer: answers from the cache if the route has kept its answer under :func:`words_of`."""

    def __init__(self, app: ASGIApp, answers: Answers, latest: LatestForecasts, metrics: Metrics) -> None:
        self._app = app
        self._answers = answers
        self._latest = latest
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        may_be_known = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith(_ENDING)
        if not (may_be_known and await self._answer(scope, send)):
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, send: Send) -> bool:
        words, client_tags = _read(scope)
        encoded = self._answers.get(words)
        if encoded is None:
            return False
        issued, dataset = encoded.issued, encoded.issued.issuance.dataset
        if self._latest.find(dataset) is not issued:
            return False
        age, stale = age_of(issued, encoded.config, self._latest.now(dataset))
        tag = encoded.stale_tag if stale else encoded.fresh_tag
        headers = [(b"etag", tag.encode()), *_UNCHANGING]
        if client_tags is not None and names(client_tags.decode("latin-1"), tag):
            self._metrics.answered("not_modified")
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return True
        self._metrics.answered("memory")
        begin = age_text(age, stale=stale)
        length = len(begin) + len(encoded.body)
        headers += ((b"content-length", b"%d" % length), (b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # In two pieces: joining them would copy the whole answer.
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        await send({"type": "http.response.body", "body": encoded.body})
        return True


def words_of(scope: Scope) -> tuple[str, bytes, bytes | None]:
    """Return path, query and ``Accept`` of a request as they were sent."""
    return _read(scope)[0]


def _read(scope: Scope) -> tuple[tuple[str, bytes, bytes | None], bytes | None]:
    """Return the words of a request, and its ``If-None-Match``."""
    accept = client_tags = None
    for name, value in scope["headers"]:
        if name == b"accept" and accept is None:
            accept = value
        elif name == b"if-none-match" and client_tags is None:
            client_tags = value
    return (scope["path"], scope["query_string"], accept), client_tags
