"""The log: one JSON object per line for machines, plain text on a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import IO, Any

from api.exchange import PRESENT, Exchange
from forecast.errors import ConfigError

_LEVELS = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}
_requests = logging.getLogger("api.requests")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(stream: IO[str] | None = None) -> None:
    """Write what is logged to standard error; ``FORECAST_LOG_FORMAT`` (``json`` or ``text``) decides for both cases."""
    stream = stream or sys.stderr
    wanted = os.environ.get("FORECAST_LOG_FORMAT") or ("text" if stream.isatty() else "json")
    if wanted not in {"json", "text"}:
        raise ConfigError("log.format", "FORECAST_LOG_FORMAT is neither json nor text", "unset it")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if wanted == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object: time, level, logger, message, and what a request adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        told: dict[str, Any] = {
            "time": _time(record.created),
            "level": _LEVELS.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
        }
        request = getattr(record, "request", None)
        if request is None:
            told["message"] = record.getMessage()
            exchange = PRESENT.get()
            if exchange is not None:
                told["request_id"] = exchange.request_id
        else:
            told |= request
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def tell(exchange: Exchange, method: str, status: int, seconds: float) -> None:
    """Log one request: nothing of it but its declared route, so that no query and no key is ever written down."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    told = {
        "request_id": exchange.request_id,
        "method": method,
        "route": exchange.template,
        "status": status,
        "milliseconds": round(seconds * 1000, 2),
        "key_id": exchange.access.key_id,
    }
    message = "%(method)s %(route)s %(status)d %(milliseconds)g ms %(key_id)s %(request_id)s"
    record = _requests.makeRecord("api.requests", logging.INFO, "", 0, message, (told,), None)
    record.request = told
    _requests.handle(record)


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"
