"""Content negotiation and conditional requests: ``Accept``, ``ETag``, ``If-None-Match``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from api.errors.kinds import NotAcceptableError

JSON = "application/json"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
FORMATS = (JSON, CSV, ARROW, PARQUET)
"""Formats of forecasts and rows; a client without ``Accept`` gets the first."""
TABLES = {CSV: {"schema": {"type": "string"}}, ARROW: {}, PARQUET: {}}
"""The formats other than JSON, for OpenAPI."""


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """Return the offered media type that an ``Accept`` header prefers; raises ``format.not_acceptable``.

    >>> preferred("text/csv;q=0.5, application/json;q=0.9", [JSON, CSV])
    'application/json'
    >>> preferred(None, [JSON, CSV])
    'application/json'
    """
    ranges = [_parsed(part) for part in (accept or "*/*").split(",")]
    ranked = [(_quality(media, ranges), -place, media) for place, media in enumerate(offered)]
    quality, _, media = max(ranked)
    if quality <= 0:
        raise NotAcceptableError(
            "format.not_acceptable", "Accept excludes every offered format", f"accept {' or '.join(offered)}"
        )
    return media


def _parsed(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return media, float(value)
            except ValueError:
                return media, 0.0
    return media, 1.0


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    # The most specific range decides: "text/csv;q=0, */*" takes anything but CSV.
    for pattern in (media, f"{media.partition('/')[0]}/*", "*/*"):
        found = [quality for given, quality in ranges if given == pattern]
        if found:
            return max(found)
    return 0.0


def conditional(
    request: Request, body: bytes, media: str, etag: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the body, or 304 if ``If-None-Match`` has its tag; caches revalidate each time."""
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept", **(headers or {})}
    if matches(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media, headers=headers)


def by_content(request: Request, body: bytes, media: str = JSON) -> Response:
    """Return the body with its digest as the tag, or 304 if the client has it."""
    return conditional(request, body, media, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def as_json(request: Request, content: BaseModel) -> Response:
    """Return a model as JSON, or 304 if the client has it; raises ``format.not_acceptable``."""
    preferred(request.headers.get("accept"), (JSON,))
    return by_content(request, content.model_dump_json().encode())


def matches(request: Request, etag: str) -> bool:
    """Whether ``If-None-Match`` has an entity tag; weak comparison, as RFC 9110 defines it."""
    given = request.headers.get("if-none-match")
    return given is not None and names(given, etag)


def names(given: str, etag: str) -> bool:
    """Whether the text of ``If-None-Match`` has an entity tag."""
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return tags == ["*"] or etag.removeprefix("W/") in tags
