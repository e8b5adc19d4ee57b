"""Tell a data set's webhook of alerts: each once when it is raised and once when it is over."""

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
    """Post what the webhook does not know yet; returns how many alerts it took, and why it did not take one.

    A webhook that fails is told in the log and asked again with the next score; an alert may then come a second time,
    under the same ``id``.
    """
    webhook = dataset.config.webhook
    if not webhook:
        return 0, ""
    sent = 0
    for alert in dataset.ledger.alerts.unsent(dataset.name, SystemClock().now())[:_MOST]:
        failure = _posted(webhook, _document(alert))
        if failure:
            _LOG.warning("%s: the webhook was not told of alert %d: %s", dataset.name, alert.sequence, failure)
            return sent, failure
        dataset.ledger.alerts.mark_sent(alert, SystemClock().now())
        sent += 1
    return sent, ""


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


def _posted(webhook: str, document: dict[str, Any]) -> str:
    """Post a document, up to three times; returns why it was not taken, or nothing."""
    body = json.dumps(document, allow_nan=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "forecast-service"}
    secret = os.environ.get("FORECAST_WEBHOOK_SECRET", "")
    if secret:
        headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    # The job file takes http and https alone (forecast/config/dataset.py).
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
            failure = f"it answered {error.code}"
            if error.code < 500 and error.code not in {408, 429}:
                return failure  # what it refuses or moved elsewhere it would refuse again
        except (OSError, http.client.HTTPException) as error:
            failure = first_line(error)
        else:
            return ""
    return failure


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An alert goes where the job file says and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing: the answer is an error."""


_OPENER = urllib.request.build_opener(_NoRedirects)
