from __future__ import annotations

from typing import TYPE_CHECKING

from forecast.clock import SystemClock
from forecast.config.alerts import AlertKind
from forecast.monitoring.alerts import AlertFinding

if TYPE_CHECKING:
    from tests.api.conftest import Served

ALERTS = "/v1/datasets/tiny/alerts"


def test_alerts_are_listed_while_they_are_open_and_afterwards(served: Served) -> None:
    ledger, now = served.home.ledger, SystemClock().now()
    assert served.client.get(ALERTS).json() == {"alerts": []}
    drifted = AlertFinding(AlertKind.DRIFT, "load", "load drifted away", 0.4, 0.2)
    ledger.alerts.update("tiny", [drifted], now)
    (alert,) = served.client.get(ALERTS, params={"open": True}).json()["alerts"]
    assert (alert["kind"], alert["subject"], alert["message"], alert["resolved_at"]) == (
        "drift",
        "load",
        drifted.message,
        None,
    )
    assert alert["told"] == drifted.message  # deprecated
    ledger.alerts.update("tiny", [], now)
    assert served.client.get(ALERTS, params={"open": True}).json() == {"alerts": []}
    (over,) = served.client.get(ALERTS).json()["alerts"]
    assert over["resolved_at"] is not None
    assert served.client.get(ALERTS, params={"limit": 0}).json()["code"] == "limit.out_of_range"
