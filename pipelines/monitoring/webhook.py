"""Post alerts to a data set's webhook: once when an alert is raised and once when it is resolved."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from typing import Any

from forecast.clock import SystemClock
from forecast.errors import first_line
from forecast.installation import Dataset
from forecast.ledger.alerts import Alert

SIGNATURE = "X-Forecast-Signature"
"""Header with ``sha256=`` and the HMAC of the body by ``FORECAST_WEBHOOK_SECRET``, in hexadecimal digits."""
_LOG = logging.getLogger(__name__)
_SECONDS = 5.0
_TRIES = 3
_MOST = 20


def deliver(dataset: Dataset) -> tuple[int, str]:
    """Post unsent alerts; returns the number of delivered alerts, and the error of the first failed one.

    A failure is logged and the delivery repeated with the next scoring; the receiver may get an alert twice, with the
    same ``id``.
    """
    webhook = dataset.config.webhook
    if not webhook:
        return 0, ""
    sent = 0
    for alert in dataset.ledger.alerts.unsent(dataset.name, SystemClock().now())[:_MOST]:
        failure = _post(webhook, _document(alert))
        if failure:
            _LOG.warning("%s: posting alert %d to the webhook failed: %s", dataset.name, alert.sequence, failure)
            return sent, failure
        dataset.ledger.alerts.mark_sent(alert, SystemClock().now())
        sent += 1
    return sent, ""


def signature(body: bytes, secret: str) -> str:
    """Return the value of the header :data:`SIGNATURE`; a receiver compares it with its own.

    >>> signature(b"{}", "secret")[:23]
    'sha256=77325902caca812d'
    """
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _document(alert: Alert) -> dict[str, Any]:
    state = "raised" if alert.is_open else "resolved"
    return {
        "id": f"{alert.dataset}-{alert.sequence}-{state}",
        "state": state,
        "sequence": alert.sequence,
        "dataset": alert.dataset,
        "kind": alert.kind,
        "subject": alert.subject,
        "message": alert.message,
        "told": alert.message,  # the former name, deprecated: removed with the next release
        "value": alert.value,
        "limit": alert.limit,
        "raised_at": alert.raised_at.isoformat(),
        "resolved_at": None if alert.resolved_at is None else alert.resolved_at.isoformat(),
    }


def _post(webhook: str, document: dict[str, Any]) -> str:
    """Post a document with up to three attempts; returns the error, or an empty string."""
    body = json.dumps(document, allow_nan=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "forecast-service"}
    secret = os.environ.get("FORECAST_WEBHOOK_SECRET", "")
    if secret:
        headers[SIGNATURE] = signature(body, secret)
    # The config accepts only http and https (forecast/config/dataset.py).
    request = urllib.request.Request(webhook, body, headers, method="POST")  # noqa: S310
    failure = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.2 * 2**attempt)
        try:
            with _OPENER.open(request, timeout=_SECONDS) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as error:
            error.close()
            failure = f"status {error.code}"
            if error.code < 500 and error.code not in {408, 429}:
                return failure  # client errors and redirects do not go away by a retry
        except (OSError, http.client.HTTPException) as error:
            failure = first_line(error)
        else:
            return ""
    return failure


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Alerts go only to the configured address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect: the response is an error."""


_OPENER = urllib.request.build_opener(_NoRedirects)
