"""Logging: one JSON object per line for machines, plain text on a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from functools import lru_cache
from typing import IO, Any

from api.context import CURRENT, RequestContext
from forecast.errors import ConfigError

_LEVELS = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}
_requests = logging.getLogger("api.requests")
_lines: IO[str] | None = None
"""The stream for request lines in JSON; ``None``: the text log."""
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(stream: IO[str] | None = None) -> None:
    """Log to standard error; ``FORECAST_LOG_FORMAT`` (``json`` or ``text``) overrides the format."""
    stream = stream or sys.stderr
    wanted = os.environ.get("FORECAST_LOG_FORMAT") or ("text" if stream.isatty() else "json")
    if wanted not in {"json", "text"}:
        raise ConfigError("log.format", "FORECAST_LOG_FORMAT is neither json nor text", "unset it")
    global _lines  # noqa: PLW0603 - a process has one log
    _lines = stream if wanted == "json" else None
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if wanted == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the id of the present request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        document: dict[str, Any] = {
            "time": _time(record.created),
            "level": _LEVELS.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
        }
        document["message"] = record.getMessage()
        context = CURRENT.get()
        if context is not None:
            document["request_id"] = context.request_id
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


def log_request(context: RequestContext, method: str, status: int, seconds: float) -> None:
    """Log one request by its declared route only, so that no query and no key is written to the log."""
    if _lines is not None:
        _lines.write(_line(context, method, status, seconds))
    elif _requests.isEnabledFor(logging.INFO):
        key_id, request_id = context.access.key_id, context.request_id
        _requests.info("%s %s %d %.2f ms %s %s", method, context.template, status, seconds * 1000, key_id, request_id)


def _line(context: RequestContext, method: str, status: int, seconds: float) -> str:
    # Formatted by hand, because it costs time with every request: no value has a character that JSON would escape.
    key_id = f'"{context.access.key_id}"' if context.access.key_id else "null"
    return (
        f'{{"time": "{_time(time.time())}", "level": "info", "logger": "api.requests", '
        f'"request_id": "{context.request_id}", "method": "{method}", "route": "{context.template}", '
        f'"status": {status}, "milliseconds": {seconds * 1000:.2f}, '
        f'"key_id": {key_id}}}\n'
    )


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"
