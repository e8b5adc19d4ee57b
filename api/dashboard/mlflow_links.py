"""Links to MLflow's UI: its address, and the comparison of a night's models."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

from forecast.evaluation.night import NightRecord
from forecast.home import Home


def mlflow_ui(home: Home) -> str:
    """Return the URL of MLflow's UI: ``FORECAST_MLFLOW_UI``, else the tracking server, else that of ``forecast up``."""
    named = os.environ.get("FORECAST_MLFLOW_UI") or ""
    if not named and home.tracking_uri.startswith("http") and "@" not in home.tracking_uri:
        named = home.tracking_uri
    return (named if named.startswith(("http://", "https://")) else "http://127.0.0.1:5000").rstrip("/")


def comparison(night: NightRecord, ui: str) -> str:
    """Return the URL of MLflow's comparison of a night's models; empty if the night does not name their runs."""
    if not night.tracking_models:
        return ""
    runs, experiments = (
        quote(json.dumps(ids)) for ids in ([*night.tracking_models.values()], [night.tracking_experiment])
    )
    # The last part opens MLflow's pages for model training; without it a new browser shows those for agents.
    return f"{ui}/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"
